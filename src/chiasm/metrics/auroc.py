"""Area under the ROC curve: the chance that a row of the class scores higher than a row of another."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import roc_auc_score

from chiasm.metrics.base import Metric, is_multi_label, positive, probability_table
from chiasm.types import Prediction


class Auroc(Metric):
    """Two classes: of the positive one. More, or several labels a row: the mean over classes, each against the rest."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        names, truth, probability = probability_table(predictions)
        varied = [i for i in range(len(names)) if 0 < truth[:, i].sum() < len(truth)]
        values = {names[i]: float(roc_auc_score(truth[:, i], probability[:, i])) for i in varied}
        if not values:
            return {}
        if len(names) == 2 and not is_multi_label(predictions):
            return {"": values[positive(names)]}
        return {"": sum(values.values()) / len(values)}
