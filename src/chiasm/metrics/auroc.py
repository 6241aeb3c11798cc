"""Area under the ROC curve: the chance that a row of the class scores higher than a row of another."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from chiasm.metrics.base import ClassArea


class Auroc(ClassArea):
    """Two classes: of the positive one. More, or several labels a row: the mean over classes, each against the rest."""

    def area(self, truth: np.ndarray, probability: np.ndarray) -> float:
        return roc_auc_score(truth, probability)
