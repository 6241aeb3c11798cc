"""Area under the precision-recall curve (average precision): what to watch when one class is rare."""

from __future__ import annotations

import numpy as np

from chiasm.metrics.base import ClassArea, threshold_counts


class PrAuc(ClassArea):
    """Two classes: of the positive one (1, true, yes, else the last in order). More, or several labels a row: the mean over classes."""

    def area(self, truth: np.ndarray, probability: np.ndarray) -> float:
        hits, alarms = threshold_counts(truth, probability)
        return float((np.diff(hits, prepend=0) * hits / (hits + alarms)).sum() / hits[-1])
