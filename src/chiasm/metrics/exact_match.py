"""Exact match: the share of answers equal to the expected one, ignoring case and extra spaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric, accepted, normalise
from chiasm.types import Prediction


class ExactMatch(Metric):
    """1 where the normalised answer is one of the accepted ones (a list of targets means any of them)."""

    per_sample = True

    def __init__(self, punctuation: bool = True):
        self.punctuation = punctuation  # False: "no." equals "no"

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        return np.array([self._right(p) for p in predictions], dtype=float)

    def _right(self, prediction: Prediction) -> bool:
        if prediction.output is None:
            return False
        answer = normalise(prediction.output, punctuation=self.punctuation)
        return any(answer == normalise(t, punctuation=self.punctuation) for t in accepted(prediction.target))
