"""Accuracy: the share of rows whose label is right; with several labels a row, all of them must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.metrics.base import Metric, accepted, label
from chiasm.types import Prediction


class Accuracy(Metric):
    """1 where the set of predicted labels equals the set of true ones."""

    per_sample = True

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        return np.array([_labels(p.output) == _labels(p.target) for p in predictions], dtype=float)


def _labels(value: object) -> set[str]:
    return {label(v) for v in accepted(value)}
