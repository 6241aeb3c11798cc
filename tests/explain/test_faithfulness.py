"""The check itself: it tells a map that is right from one that is not, on a number that is a known sum of parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chiasm.explain.faithfulness import check
from chiasm.explain.occlusion import Map, Unit, occlude
from chiasm.explain.subject import ABSENT
from chiasm.explain.units import Words

TEXT = "zero one two three four five six seven"
WORTH = dict(zip(TEXT.split(), [0, 0, 5.0, 0, 0, 3.0, 0, 0], strict=True))


class Sum:
    """Stands for a subject: the number is the sum of what its words are worth."""

    at_once, passes, opened = 64, 0, None
    target = SimpleNamespace(plain=lambda values: values)

    @property
    def whole(self) -> float:
        return sum(WORTH.values())

    def items(self, name: str) -> list[Any]:
        return [TEXT]

    def joined(self, name: str, items: list[Any]) -> Any:
        return items[0]

    def values(self, variants: Any) -> np.ndarray:
        self.passes += len(variants) + 1
        return np.array([sum(WORTH[w] for w in v["text"].split()) if v["text"] is not ABSENT else 0.0 for v in variants])


def test_occlusion_finds_what_each_word_is_worth():
    found = occlude(Sum(), [Words("text", 0, TEXT, None, text=TEXT)])
    assert {unit.cut.describe(unit.region)["text"]: unit.value for unit in found.units} == WORTH
    assert found.empty == 0


def test_a_long_text_costs_no_more():
    subject, text = Sum(), " ".join(TEXT.split()[i % 8] for i in range(400))
    occlude(subject, [Words("text", 0, text, None, text=text)])
    assert subject.passes <= 64


def test_a_right_map_is_better_than_chance_and_a_wrong_one_is_not():
    subject = Sum()
    found = occlude(subject, [Words("text", 0, TEXT, None, text=TEXT)])
    right = check(subject, found)
    assert right is not None and right.better and right.margin > 0.25
    wrong = check(subject, Map([Unit(u.cut, u.region, -u.value) for u in found.units], found.empty))
    assert wrong is not None and not wrong.better and wrong.margin < -0.25


def test_what_changes_nothing_is_not_judged(monkeypatch: pytest.MonkeyPatch):
    for word in WORTH:
        monkeypatch.setitem(WORTH, word, 0.0)
    assert check(Sum(), occlude(Sum(), [Words("text", 0, TEXT, None, text=TEXT)])) is None
