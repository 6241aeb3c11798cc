"""F1: the harmonic mean of precision and recall, per class and as their unweighted mean (macro)."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import f1_score

from chiasm.metrics.base import Metric, label_table
from chiasm.types import Prediction

LISTED_CLASSES = 50  # with more, only the macro figure is given


class F1(Metric):
    """`f1` is macro over the labels seen, also for two classes; `f1[class=1]` is the usual binary figure."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        names, truth, answer = label_table(predictions)
        if not names:
            return {}
        per_class = [float(f1_score(truth[:, i], answer[:, i], zero_division=0)) for i in range(len(names))]
        listed = {f"[class={name}]": v for name, v in zip(names, per_class, strict=True)} if len(names) <= LISTED_CLASSES else {}
        return {"": sum(per_class) / len(names), **listed}
