"""R squared: the share of the targets' variance that the predicted numbers explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import r2_score

from chiasm.metrics.base import Metric, numbers
from chiasm.types import Prediction


class R2(Metric):
    """1 - squared error / variance; 0 is as good as always saying the mean, below 0 is worse."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        target, output = numbers(predictions)

        def explained(rows: np.ndarray) -> dict[str, float]:
            t, o = target[rows], output[rows]
            return {} if len(t) < 2 or (t.std(0) == 0).any() else {"": float(r2_score(t, o))}

        return explained
