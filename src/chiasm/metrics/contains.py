"""Contains: the share of answers in which the expected one stands, word for word; for models that answer in whole sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric, accepted, normalise
from chiasm.types import Prediction


class Contains(Metric):
    """1 where an accepted answer's words stand together in the answer, whatever the case and the punctuation around them.

    An answer that says everything is always right, and "not red" contains red: exact_match is the stricter one.
    """

    per_sample = True

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        return np.array([p.output is not None and self._right(p) for p in predictions], dtype=float)

    def _right(self, prediction: Prediction) -> bool:
        answer = f" {normalise(prediction.output, punctuation=False)} "
        wanted = [normalise(target, punctuation=False) for target in accepted(prediction.target)]
        return any(text and f" {text} " in answer for text in wanted)
