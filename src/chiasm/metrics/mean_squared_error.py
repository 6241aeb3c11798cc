"""Mean squared error of a predicted number, in the target's unit squared."""

from __future__ import annotations

import numpy as np

from chiasm.metrics.base import MeanError


class MeanSquaredError(MeanError):
    """Mean of (output - target)^2; several numbers a row are averaged."""

    def size(self, error: np.ndarray) -> np.ndarray:
        return error**2
