"""Area under the precision-recall curve (average precision): what to watch when one class is rare."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import average_precision_score

from chiasm.metrics.base import Metric, is_multi_label, positive, probability_table
from chiasm.types import Prediction


class PrAuc(Metric):
    """Two classes: of the positive one (1, true, yes, else the last in order). More, or several labels a row: the mean over classes."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        names, truth, probability = probability_table(predictions)
        varied = [i for i in range(len(names)) if 0 < truth[:, i].sum() < len(truth)]
        values = {names[i]: float(average_precision_score(truth[:, i], probability[:, i])) for i in varied}
        if not values:
            return {}
        if len(names) == 2 and not is_multi_label(predictions):
            return {"": values[positive(names)]}
        return {"": sum(values.values()) / len(values)}
