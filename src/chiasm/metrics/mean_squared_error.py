"""Mean squared error of a predicted number, in the target's unit squared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric, numbers
from chiasm.types import Prediction


class MeanSquaredError(Metric):
    """Mean of (output - target)^2; several numbers a row are averaged."""

    higher_is_better = False
    best = 0.0
    per_sample = True

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        target, output = numbers(predictions)
        return ((output - target) ** 2).mean(1)
