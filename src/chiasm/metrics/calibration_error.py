"""Expected calibration error: how far "90 % sure" is from being right 90 % of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        right, sure = self._pairs(predictions)
        return lambda rows: self._error(right[rows].ravel(), sure[rows].ravel())

    def _error(self, right: np.ndarray, sure: np.ndarray) -> dict[str, float]:
        right, sure = right[~np.isnan(sure)], sure[~np.isnan(sure)].clip(0, 1)
        if not len(sure):
            return {}
        accuracy, confidence = calibration_curve(right, sure, n_bins=self.bins, strategy="uniform", pos_label=1)
        edges = np.linspace(0, 1, self.bins + 1)[1:-1]  # scikit-learn's own binning; it leaves out empty bins
        rows = np.bincount(np.searchsorted(edges, sure), minlength=self.bins)
        rows = rows[rows > 0]
        return {"": float((np.abs(accuracy - confidence) * rows).sum() / rows.sum())}

    def _pairs(self, predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
        """(whether right, how sure) of each row [N], or of each label of each row [N, C]; NaN where it is not known how sure."""
        if is_multi_label(predictions) and any(p.probabilities for p in predictions):
            return probability_table(predictions)[1:]
        sure = [p.score if p.score is not None else max((p.probabilities or {}).values(), default=np.nan) for p in predictions]
        right = [normalise(p.output) in {normalise(t) for t in accepted(p.target)} for p in predictions]
        return np.array(right, dtype=int), np.array(sure, dtype=float)
