"""Token accuracy: the share of masked words that were guessed right, over all rows together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric
from chiasm.types import Prediction


class TokenAccuracy(Metric):
    """Outputs and targets are lists with one word per place; a place without an answer is wrong. Rows count as many times as places."""

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.from_statistics(self.statistics(predictions).sum(0))

    def statistics(self, predictions: Sequence[Prediction]) -> np.ndarray:
        return np.array([_counts(p.output or (), p.target) for p in predictions], dtype=float).reshape(len(predictions), 2)

    def from_statistics(self, total: np.ndarray) -> dict[str, float]:
        return {"": float(total[0] / total[1])} if total[1] else {}


def _counts(output: Sequence[str], target: Sequence[str]) -> tuple[int, int]:
    """(right places, places)."""
    return sum(a == b for a, b in zip(output, target, strict=False)), len(target)
