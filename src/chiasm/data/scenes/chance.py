"""Random choices for one record: a stream of numbers that depends on (seed, split, record number) and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from chiasm.data.randomness import generator

T = TypeVar("T")
_BLOCK = 48  # numbers drawn at once: one call per record is several times faster than one call per choice


class Chance:
    """`Chance(0, "train", 17)` makes the same choices on every machine, in every process and in any order of reading."""

    def __init__(self, seed: int, split: str, record: int):
        self._generator = generator("scenes", seed, split, record)
        self._numbers: list[float] = []

    def uniform(self) -> float:
        """A number in [0, 1)."""
        if not self._numbers:
            self._numbers = self._generator.random(_BLOCK).tolist()
        return self._numbers.pop()

    def below(self, count: int) -> int:
        """A whole number in 0..count-1."""
        return int(self.uniform() * count)

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T], count: int | None = None) -> list[T]:
        """`count` different items (default: all), in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(len(left) if count is None else count)]
