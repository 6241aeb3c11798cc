"""Pearson correlation between predicted and true numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from chiasm.metrics.base import Metric, numbers
from chiasm.types import Prediction


class Pearson(Metric):
    """Linear correlation, -1..1; several numbers a row are averaged. Undefined where either side is constant."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        target, output = numbers(predictions)

        def correlation(rows: np.ndarray) -> dict[str, float]:
            t, o = target[rows], output[rows]
            if len(t) < 2 or (t.std(0) == 0).any() or (o.std(0) == 0).any():
                return {}
            return {"": float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(t.T, o.T, strict=True)]))}

        return correlation
