"""F1: the harmonic mean of precision and recall, per class and as their unweighted mean (macro)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import f1_score

from chiasm.metrics.base import Metric, label_table
from chiasm.types import Prediction

LISTED_CLASSES = 50  # with more, only the macro figure is given


class F1(Metric):
    """`f1` is macro over the labels seen, also for two classes; `f1[class=1]` is the usual binary figure."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        names, truth, answer = label_table(predictions)

        def f1(rows: np.ndarray) -> dict[str, float]:
            seen = [i for i in range(len(names)) if truth[rows, i].any() or answer[rows, i].any()]
            per_class = [float(f1_score(truth[rows, i], answer[rows, i], zero_division=0)) for i in seen]
            listed = {f"[class={names[i]}]": v for i, v in zip(seen, per_class, strict=True)} if len(names) <= LISTED_CLASSES else {}
            return {"": sum(per_class) / len(seen), **listed} if seen else {}

        return f1
