"""Recall@k of retrieval, both ways: how often the true partner is among the k nearest of 100 candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chiasm.metrics.base import Metric
from chiasm.types import Prediction


class Recall(Metric):
    """Predictions carry `output = {"image": [W floats], "caption": [W floats]}`; `target = {"image": key, "caption": text}` where known.

    Candidates come in blocks of 100, formed by a hash of the ids, so that the figure does not depend on the order or the size of the
    set. A pair that occurs twice counts once; a candidate equal to the true partner is a hit; a tie counts against the model.
    """

    per_sample = True
    ranks = (1, 5, 10)

    def __init__(self, candidates: int = 100):
        self.candidates = candidates

    def scores_by_variant(self, predictions: Sequence[Prediction]) -> dict[str, np.ndarray]:
        sides = list(predictions[0].output)
        found = {f"{k}[{a}->{b}]": np.full(len(predictions), np.nan) for k in self.ranks for a, b in (sides, sides[::-1])}
        for block in self._blocks(predictions):
            rows = [predictions[i] for i in block]
            vectors = {side: _unit([p.output[side] for p in rows]) for side in sides}
            for a, b in (sides, sides[::-1]):
                rank = _rank(vectors[a] @ vectors[b].T, _equal(rows, a), _equal(rows, b))
                for k in self.ranks:
                    found[f"{k}[{a}->{b}]"][block] = rank < k
        return found

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return {variant: float(np.nanmean(s)) for variant, s in self.scores_by_variant(predictions).items()}

    def notes(self, predictions: Sequence[Prediction]) -> list[str]:
        blocks = list(self._blocks(predictions))
        rest = len(_distinct(predictions)) - sum(map(len, blocks))
        left = f"; {rest} left over pairs are not in it" if rest else ""
        return [f"Recall@k is among {len(blocks[0])} candidates ({len(blocks)} x {len(blocks[0])} different pairs{left})"]

    def _blocks(self, predictions: Sequence[Prediction]) -> Iterator[np.ndarray]:
        kept = np.array(_distinct(predictions))
        for block in range(max(len(kept) // self.candidates, 1)):
            yield kept[block * self.candidates : (block + 1) * self.candidates]


def _distinct(predictions: Sequence[Prediction]) -> list[int]:
    order = sorted(range(len(predictions)), key=lambda i: hashlib.sha256(predictions[i].id.encode()).digest())
    first: dict[Any, int] = {}
    for i in order:
        first.setdefault(_pair(predictions[i]), i)
    return list(first.values())


def _pair(prediction: Prediction) -> Any:
    return tuple((prediction.target or {}).get(side, tuple(v)) for side, v in prediction.output.items())


def _unit(rows: Sequence[Sequence[float]]) -> np.ndarray:
    values = np.array(rows, dtype=float)  # [N, W]
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)


def _equal(rows: Sequence[Prediction], side: str) -> np.ndarray:
    keys = np.unique([str((p.target or {}).get(side, p.output[side])) for p in rows], return_inverse=True)[1]
    return keys[:, None] == keys[None, :]  # [N, N]


def _rank(similarity: np.ndarray, same_query: np.ndarray, same_candidate: np.ndarray) -> np.ndarray:
    hit = same_query @ same_candidate  # partner of an equal query, or equal to a partner (boolean matrix product)
    best = np.where(hit, similarity, -np.inf).max(1, keepdims=True)
    return ((similarity >= best) & ~hit).sum(1)
