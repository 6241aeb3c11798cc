"""Pearson correlation between predicted and true numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric, numbers
from chiasm.types import Prediction


class Pearson(Metric):
    """Linear correlation, -1..1; several numbers a row are averaged. Undefined where either side is constant."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        target, output = numbers(predictions)
        if len(target) < 2 or (target.std(0) == 0).any() or (output.std(0) == 0).any():
            return {}
        return {"": float(np.mean([np.corrcoef(t, o)[0, 1] for t, o in zip(target.T, output.T, strict=True)]))}
