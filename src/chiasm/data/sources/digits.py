"""The built-in data set `digits` as a source: five small cases in which it is known what each input is worth."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from chiasm.components import did_you_mean
from chiasm.data.digits.variants import COLUMNS, VARIANTS
from chiasm.data.randomness import generator
from chiasm.data.sources.base import Source
from chiasm.types import RecipeError, Sample

SIZES = {"train": 10_000, "validation": 400, "test": 1_000}


class Digits(Source):
    """Rows of `train`, `validation` and `test`, in one of five variants (`data: {builtin: digits, variant: interaction}`):

        {"image": float32 [64], "audio": float32 [128], "image_digit": 3, "audio_digit": 9, "label": 2}

    No part is a file or a picture: `image` is the 64 numbers that scikit-learn has of a handwritten digit, `audio` a log-mel spectrogram
    of a spoken one, made here and not by the audio path; both are for `features` inputs, so that a training takes seconds. What each
    variant holds is said in `chiasm.data.digits.variants`. No handwriting and no voice of `test` is in `train` or `validation`.
    """

    splits = tuple(SIZES)
    variants = tuple(VARIANTS)

    def __init__(self, split: str, *, seed: int = 0, variant: str = "redundant", rows: int | None = None):
        for key, name, known in (("split", split, self.splits), ("variant", variant, self.variants)):
            if name not in known:
                raise RecipeError(f"the built-in data 'digits' has no {key} '{name}'{did_you_mean(name, known)}")
        if rows is not None and rows < 1:
            raise RecipeError(f"rows: {rows} is not a number of rows; type 1 or more")
        self.split, self.seed, self.variant, self.rows = split, seed, variant, rows or SIZES[split]

    def __len__(self) -> int:
        return self.rows

    def read(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"digits {self.split} has {len(self)} rows, not {index}")
        name, file, line = self.origin(index)
        return Sample(name, _parts(self.variant, self.split, self.seed, index), file, line)

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"{self.split}:{index}", f"digits/{self.variant}/{self.split}", index

    @property
    def columns(self) -> Iterable[str]:
        return COLUMNS[self.variant]


@lru_cache(maxsize=16_384)  # a row is read once per epoch and is about a kilobyte
def _parts(variant: str, split: str, seed: int, index: int) -> dict[str, Any]:
    return VARIANTS[variant](generator("digits", variant, seed, split, index), split, index)
