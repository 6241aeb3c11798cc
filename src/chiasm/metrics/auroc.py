"""Area under the ROC curve: the chance that a row of the class scores higher than a row of another."""

from __future__ import annotations

import numpy as np

from chiasm.metrics.base import ClassArea, threshold_counts


class Auroc(ClassArea):
    """Two classes: of the positive one. More, or several labels a row: the mean over classes, each against the rest."""

    def area(self, truth: np.ndarray, probability: np.ndarray) -> float:
        hits, alarms = threshold_counts(truth, probability)
        heights = hits + np.append(0, hits[:-1])  # twice the mean height of each step to the right
        return float((heights * np.diff(alarms, prepend=0)).sum() / (2 * hits[-1] * alarms[-1]))
