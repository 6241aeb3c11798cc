"""Mean absolute error of a predicted number, in the target's unit."""

from __future__ import annotations

import numpy as np

from chiasm.metrics.base import MeanError


class MeanAbsoluteError(MeanError):
    """Mean of |output - target|; several numbers a row are averaged."""

    def size(self, error: np.ndarray) -> np.ndarray:
        return np.abs(error)
