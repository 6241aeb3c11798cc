"""Perplexity: e to the mean negative log-likelihood (nats) of the target's tokens, all rows together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric
from chiasm.types import Prediction


class Perplexity(Metric):
    """What a language model is judged by: 1 where every token is certain, the size of the vocabulary where all are equally likely. Each
    token is predicted from the true ones before it. Models with different tokenizers cannot be compared by it."""

    higher_is_better = False

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.from_statistics(self.statistics(predictions).sum(0))

    def statistics(self, predictions: Sequence[Prediction]) -> np.ndarray:
        return np.array([p.surprise or (0.0, 0) for p in predictions], dtype=float).reshape(len(predictions), 2)

    def from_statistics(self, total: np.ndarray) -> dict[str, float]:
        return {"": math.exp(min(total[0] / total[1], 700.0))} if total[1] else {}
