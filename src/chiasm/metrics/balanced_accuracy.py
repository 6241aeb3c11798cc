"""Balanced accuracy: the mean over classes of the share found, so that a rare class counts as much as a common one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import recall_score

from chiasm.metrics.base import Metric, is_multi_label, label_table
from chiasm.types import Prediction


class BalancedAccuracy(Metric):
    """Mean recall over the classes that occur; with several labels a row, the mean of (found + rightly absent) / 2 over labels."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        names, truth, answer = label_table(predictions)
        several = is_multi_label(predictions)

        def balanced(rows: np.ndarray) -> dict[str, float]:
            classes = [i for i in range(len(names)) if truth[rows, i].any() and not (several and truth[rows, i].all())]
            values = [_found(truth[rows, i], answer[rows, i], both=several) for i in classes]
            return {"": sum(values) / len(values)} if values else {}

        return balanced


def _found(truth: np.ndarray, answer: np.ndarray, *, both: bool) -> float:
    found = float(recall_score(truth, answer, zero_division=0))
    return (found + float(recall_score(truth, answer, pos_label=0, zero_division=0))) / 2 if both else found
