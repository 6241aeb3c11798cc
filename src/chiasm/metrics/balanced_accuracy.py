"""Balanced accuracy: the mean over classes of the share found, so that a rare class counts as much as a common one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from chiasm.metrics.base import Metric, is_multi_label, label_table
from chiasm.types import Prediction


class BalancedAccuracy(Metric):
    """Mean recall over the classes that occur; with several labels a row, the mean of (found + rightly absent) / 2 over labels."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        _, truth, answer = label_table(predictions)
        several = is_multi_label(predictions)
        both, neither = truth * answer, (1 - truth) * (1 - answer)

        def balanced(rows: np.ndarray) -> dict[str, float]:
            there = truth[rows].sum(0)  # [C]
            classes = np.flatnonzero((there > 0) & (there < len(rows)) if several else there > 0)
            found = both[rows].sum(0)[classes] / there[classes]
            if several:
                found = (found + neither[rows].sum(0)[classes] / (len(rows) - there[classes])) / 2
            return {"": float(found.mean())} if len(classes) else {}

        return balanced
