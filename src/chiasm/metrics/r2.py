"""R squared: the share of the targets' variance that the predicted numbers explain."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import r2_score

from chiasm.metrics.base import Metric, numbers
from chiasm.types import Prediction


class R2(Metric):
    """1 - squared error / variance; 0 is as good as always saying the mean, below 0 is worse."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        target, output = numbers(predictions)
        if len(target) < 2 or (target.std(0) == 0).any():
            return {}
        return {"": float(r2_score(target, output))}
