"""Token F1: how many words an answer shares with the expected one (SQuAD's measure, without its English articles rule)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from chiasm.metrics.base import Metric, accepted, label, normalise
from chiasm.types import Prediction


class TokenF1(Metric):
    """F1 over words without case and punctuation; a list of targets counts its best one."""

    per_sample = True

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        return np.array(
            [max((_overlap(label(p.output), label(t)) for t in accepted(p.target)), default=0.0) for p in predictions], dtype=float
        )


@lru_cache(maxsize=100_000)
def _overlap(answer: str, target: str) -> float:
    ours, theirs = (Counter(normalise(text, punctuation=False).split()) for text in (answer, target))
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total())
