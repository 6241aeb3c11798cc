"""Expected calibration error: how far "90 % sure" is from being right 90 % of the time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.calibration import calibration_curve

from chiasm.metrics.base import Metric, accepted, is_multi_label, normalise, probability_table
from chiasm.types import Prediction


class CalibrationError(Metric):
    """Mean distance between confidence and accuracy over equal-width bins, weighted by rows. Confidence is `score`, else the highest of
    `probabilities`; with several labels a row, every (row, label) pair counts with its own probability."""

    higher_is_better = False
    best = 0.0

    def __init__(self, bins: int = 15):
        self.bins = bins

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        right, sure = self._pairs(predictions)
        if not len(sure):
            return {}
        sure = sure.clip(0, 1)
        accuracy, confidence = calibration_curve(right, sure, n_bins=self.bins, strategy="uniform", pos_label=1)
        edges = np.linspace(0, 1, self.bins + 1)[1:-1]  # scikit-learn's own binning; it leaves out empty bins
        rows = np.bincount(np.searchsorted(edges, sure), minlength=self.bins)
        rows = rows[rows > 0]
        return {"": float((np.abs(accuracy - confidence) * rows).sum() / rows.sum())}

    def _pairs(self, predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
        if is_multi_label(predictions) and any(p.probabilities for p in predictions):
            _, truth, probability = probability_table(predictions)
            return truth.ravel(), probability.ravel()
        rows = [p for p in predictions if p.score is not None or p.probabilities]
        sure = [p.score if p.score is not None else max((p.probabilities or {}).values()) for p in rows]
        right = [normalise(p.output) in {normalise(t) for t in accepted(p.target)} for p in rows]
        return np.array(right, dtype=int), np.array(sure, dtype=float)
