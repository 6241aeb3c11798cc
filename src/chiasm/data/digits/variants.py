"""What a row of each variant of `digits` holds, and so what is known about it beforehand.

redundant     picture and sound are of the same digit, each under noise that is sometimes strong: each alone is good, both are better, and
              since the noises are independent, so that votes lose nothing, no fusion can do more than an ensemble of the two
interaction   label = (written digit + spoken digit) mod 10: each alone is at chance, and so is every sum of votes
unique        label = written digit; the spoken one is drawn on its own: the picture is all there is
match         four written digits, all different, and a spoken place (one to four); the label is the digit that is written there: whoever
              averages over the four first has lost which stands where, and can only guess one of them
missing       both are of the same digit, but in validation and test every row has only one of the two, by turns

Letters of a row's parts: `image` float32 [64], or [4, 64] in match; `audio` float32 [128]; labels are 0..9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from chiasm.data.digits.vectors import pictures, sounds

PLACES = 4  # of match

Parts = dict[str, Any]


def redundant(chance: Generator, split: str, index: int) -> Parts:
    digit = _digit(chance)
    parts = _pair(chance, split, digit, digit)
    for name, (weak, strong, often) in NOISE.items():
        spread = strong if chance.random() < often else weak
        parts[name] = parts[name] + chance.normal(0, spread, parts[name].shape).astype(np.float32)
    return {**parts, "label": digit}


NOISE = {"image": (0.1, 2.0, 0.25), "audio": (0.3, 5.0, 0.25)}  # standard deviation: mostly, else; and how often it is the latter


def interaction(chance: Generator, split: str, index: int) -> Parts:
    written, spoken = _digit(chance), _digit(chance)
    return {**_pair(chance, split, written, spoken), "label": (written + spoken) % 10}


def unique(chance: Generator, split: str, index: int) -> Parts:
    written, spoken = _digit(chance), _digit(chance)
    return {**_pair(chance, split, written, spoken), "label": written}


def match(chance: Generator, split: str, index: int) -> Parts:
    written, place = chance.permutation(10)[:PLACES].tolist(), int(chance.integers(PLACES))
    return {
        "image": np.stack([_one_of(pictures(split)[digit], chance) for digit in written]),
        "audio": _one_of(sounds(split)[place + 1], chance),
        "place": place + 1,
        "label": written[place],
    }


def missing(chance: Generator, split: str, index: int) -> Parts:
    digit = _digit(chance)
    parts = {**_pair(chance, split, digit, digit), "label": digit}
    if split != "train":
        del parts["image" if index % 2 else "audio"]
    return parts


VARIANTS: dict[str, Callable[[Generator, str, int], Parts]] = {
    "redundant": redundant,
    "interaction": interaction,
    "unique": unique,
    "match": match,
    "missing": missing,
}
_OF_A_PAIR = ("image", "audio", "image_digit", "audio_digit", "label")
COLUMNS = {**dict.fromkeys(VARIANTS, _OF_A_PAIR), "match": ("image", "audio", "place", "label")}


def _pair(chance: Generator, split: str, written: int, spoken: int) -> Parts:
    image, audio = _one_of(pictures(split)[written], chance), _one_of(sounds(split)[spoken], chance)
    return {"image": image, "audio": audio, "image_digit": written, "audio_digit": spoken}


def _digit(chance: Generator) -> int:
    return int(chance.integers(10))


def _one_of(vectors: np.ndarray, chance: Generator) -> np.ndarray:
    return vectors[chance.integers(len(vectors))]
