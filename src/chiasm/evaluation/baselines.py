"""What an answer is worth that never looked: the commonest training answer, and the commonest one for each question."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chiasm.metrics.base import accepted, label, normalise
from chiasm.types import ChiasmError


@dataclass(frozen=True, slots=True)
class Baseline:
    """A blind answerer. `columns` are the text columns it reads (none for majority); their normalised values are the key of `answers`."""

    name: str  # as in the key "answer.exact_match[question only]"
    columns: tuple[str, ...]
    answers: Mapping[tuple[str, ...], str]
    fallback: str  # for a question that training never asked

    def answer(self, parts: Mapping[str, Any]) -> str:
        """The answer for a sample's parts."""
        return self.answers.get(tuple(normalise(parts.get(c)) for c in self.columns), self.fallback)


def majority(rows: Iterable[tuple[Mapping[str, Any], Any]]) -> Baseline:
    """The commonest answer of training rows (parts, answer), whatever is asked."""
    return _fit("majority", (), rows)


def question_only(rows: Iterable[tuple[Mapping[str, Any], Any]], columns: Iterable[str] = ("question",)) -> Baseline:
    """The commonest answer for each question of training rows (parts, answer); a new question gets the majority answer."""
    return _fit("question only", tuple(columns), rows)


def _fit(name: str, columns: tuple[str, ...], rows: Iterable[tuple[Mapping[str, Any], Any]]) -> Baseline:
    overall: Counter[str] = Counter()
    counts: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for parts, answer in rows:
        key = tuple(normalise(parts.get(c)) for c in columns)
        for one in accepted(answer):
            overall[label(one)] += 1
            counts[key][label(one)] += 1
    if not overall:
        raise ChiasmError(f"baseline '{name}' needs at least one training row with an answer")
    return Baseline(name, columns, {key: _commonest(c) for key, c in counts.items()}, _commonest(overall))


def _commonest(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))  # ties: the first in the alphabet
