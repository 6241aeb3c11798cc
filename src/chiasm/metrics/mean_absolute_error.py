"""Mean absolute error of a predicted number, in the target's unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric, numbers
from chiasm.types import Prediction


class MeanAbsoluteError(Metric):
    """Mean of |output - target|; several numbers a row are averaged."""

    higher_is_better = False
    best = 0.0
    per_sample = True

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        target, output = numbers(predictions)
        return np.abs(output - target).mean(1)
