"""Area under the precision-recall curve (average precision): what to watch when one class is rare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import average_precision_score

from chiasm.metrics.base import Metric, is_multi_label, positive, probability_table
from chiasm.types import Prediction


class PrAuc(Metric):
    """Two classes: of the positive one (1, true, yes, else the last in order). More, or several labels a row: the mean over classes."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        names, truth, probability = probability_table(predictions)
        binary = len(names) == 2 and not is_multi_label(predictions)
        columns = [names.index(positive(names))] if binary else range(len(names))
        known = np.isfinite(probability.sum(axis=1))

        def area(rows: np.ndarray) -> dict[str, float]:
            rows = rows[known[rows]]
            varied = [i for i in columns if 0 < truth[rows, i].sum() < len(rows)]
            values = [float(average_precision_score(truth[rows, i], probability[rows, i])) for i in varied]
            return {"": sum(values) / len(values)} if values else {}

        return area
