"""F1: the harmonic mean of precision and recall, per class and as their unweighted mean (macro)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from chiasm.metrics.base import Metric, label_table
from chiasm.types import Prediction

LISTED_CLASSES = 50  # with more, only the macro figure is given


class F1(Metric):
    """`f1` is macro over the labels seen, also for two classes; `f1[class=1]` is the usual binary figure."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        names, truth, answer = label_table(predictions)

        both = truth * answer

        def f1(rows: np.ndarray) -> dict[str, float]:
            hits, there = both[rows].sum(0), truth[rows].sum(0) + answer[rows].sum(0)  # [C]
            seen = np.flatnonzero(there)
            per_class = (2 * hits[seen] / there[seen]).tolist()
            listed = {f"[class={names[i]}]": v for i, v in zip(seen, per_class, strict=True)} if len(names) <= LISTED_CLASSES else {}
            return {"": sum(per_class) / len(seen), **listed} if len(seen) else {}

        return f1
