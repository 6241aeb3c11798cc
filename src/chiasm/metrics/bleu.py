"""BLEU of a corpus, by sacrebleu, as a share of 1 (sacrebleu prints the same figure times 100)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from chiasm.metrics.base import Metric, accepted, label
from chiasm.types import Prediction

ORDER = 4


class Bleu(Metric):
    """sacrebleu's default: 4-grams, tokeniser 13a, exponential smoothing; a list of targets is several references."""

    def __init__(self, lowercase: bool = True):
        self.bleu = BLEU(lowercase=lowercase, max_ngram_order=ORDER)
        self.sentence = BLEU(lowercase=lowercase, max_ngram_order=ORDER, effective_order=True)  # counts only; silences a warning
        self.known: dict[tuple[str, tuple[str, ...]], list[float]] = {}  # resamples, groups and controls ask for the same again

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.from_statistics(self.statistics(predictions).sum(0))

    def statistics(self, predictions: Sequence[Prediction]) -> np.ndarray:
        """[N, 10]: n-grams that match, n-grams there are, length, length of the closest reference."""
        found = [self._counts(label(p.output), tuple(label(t) for t in accepted(p.target))) for p in predictions]
        return np.array(found, dtype=float).reshape(len(found), 2 * ORDER + 2)

    def _counts(self, answer: str, references: tuple[str, ...]) -> list[float]:
        if (answer, references) not in self.known:
            score = self.sentence.sentence_score(answer, references)
            self.known[answer, references] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
        return self.known[answer, references]

    def from_statistics(self, total: np.ndarray) -> dict[str, float]:
        counts = [int(v) for v in total]
        score = self.bleu.compute_bleu(
            correct=counts[:ORDER], total=counts[ORDER : 2 * ORDER], sys_len=counts[-2], ref_len=counts[-1], smooth_method="exp"
        )
        return {"": score.score / 100}
