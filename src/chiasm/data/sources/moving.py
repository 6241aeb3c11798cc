"""The built-in data set `moving` as a source: short clips and questions that no single frame of them answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from chiasm.components import did_you_mean
from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.layout import SplitPlan
from chiasm.data.scenes.motion import drawn, make_clip, make_single, questions
from chiasm.data.sources.base import Source
from chiasm.types import RecipeError, Sample

ROWS = 3  # questions about every clip
JUMPS = 3  # in every third clip things jump, in the others they move
PLANS = {
    "train": SplitPlan(4_000),
    "validation": SplitPlan(100, "validation"),
    "test": SplitPlan(400, "test"),
    "test_new_pairs": SplitPlan(400, "test", new_pairs=True),
    "things": SplitPlan(8_000, unit="thing"),
}


class Moving(Source):
    """Rows of `train`, `validation`, `test` and `test_new_pairs`, three in a row about the same clip of eight frames in two seconds:

        {"video": Drawn, "question": "which way does the red cup move ?", "answer": "left", "kind": "direction"}
        {"video": Drawn, "question": "what colour moves first ?", "answer": "red", "kind": "order"}
        {"video": Drawn, "question": "do they swap ?", "answer": "no", "kind": "swap"}
        {"video": Drawn, "question": "what colour is the cup ?", "answer": "red", "kind": "colour"}
        {"video": Drawn, "question": "what thing is red ?", "answer": "cup", "kind": "thing"}

    The last two kinds a single frame answers. Of the others neither the question nor the middle frame tells anything; with the frame,
    which shows two things, `order` is a guess among two. Handwriting and new pairs are held apart as in `scenes`.

    `things` (for training): {"video": Drawn, "thing": "cup", "colour": "red", "direction": "left"}, one thing that moves.
    """

    splits = tuple(PLANS)

    def __init__(self, split: str, *, seed: int = 0, clips: int | None = None):
        if split not in PLANS:
            raise RecipeError(f"the built-in data 'moving' has no split '{split}'{did_you_mean(split, PLANS)}")
        if clips is not None and clips < 1:
            raise RecipeError(f"clips: {clips} is not a number of clips; type 1 or more")
        self.split, self.seed, self.clips = split, seed, clips or PLANS[split].size
        self.rows = ROWS if PLANS[split].unit == "scene" else 1

    def __len__(self) -> int:
        return self.clips * self.rows

    def read(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"moving {self.split} has {len(self)} rows, not {index}")
        name, file, line = self.origin(index)
        return Sample(name, _rows(self.split, self.seed, index // self.rows)[index % self.rows], file, line)

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"{self.split}:{index}", f"moving/{self.split}", index

    def outline(self) -> tuple[Sequence[int], Sequence[int]]:
        rows = range(len(self))
        return [0] * len(rows), [row // self.rows for row in rows]

    @property
    def columns(self) -> Iterable[str]:
        return ("video", "question", "answer", "kind") if self.rows == ROWS else ("video", "thing", "colour", "direction")


@lru_cache(maxsize=512)
def _rows(split: str, seed: int, number: int) -> tuple[dict[str, Any], ...]:
    """The parts of all rows about clip `number`."""
    chance, key = Chance(seed, f"moving {split}", number), f"moving/{split}/{seed}-{number:06d}"
    if PLANS[split].unit == "thing":
        clip = make_single(chance, PLANS[split])
        thing, way = clip.first, (clip.directions or ("",))[0]
        return ({"video": drawn(key, clip), "thing": thing.thing, "colour": thing.colour, "direction": way},)
    clip = make_clip(chance, PLANS[split], jumps=number % JUMPS == 0)
    video = drawn(key, clip)
    return tuple({"video": video, "question": q.text, "answer": q.answer, "kind": q.kind} for q in questions(chance, clip))
