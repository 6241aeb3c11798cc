"""Which parts of the inputs an answer rests on: take each part away and see what becomes of the number that is explained.

Coarse first, then the quarter that matters most in finer parts, so that any size of picture or text costs at most PASSES rows
(M. D. Zeiler and R. Fergus, "Visualizing and understanding convolutional networks", 2014, slide a patch over every place instead).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.explain.baseline import Baseline
from chiasm.explain.subject import Subject, Variant
from chiasm.explain.units import CHILDREN, Columns, Cut, Frames, Picture, Region, Stretch, Vectors, Words
from chiasm.media.table import Row
from chiasm.types import Film, Sound

PASSES = 64  # most rows that go through the model for one map
COARSE = 16  # parts of an item in the first round, of a picture 4 x 4
ROOM = 56  # of them for parts; the others are the row as it is, once a batch, and the one without anything


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of an item and what goes when it is taken away: above 0 it speaks for the answer, below 0 against it."""

    cut: Cut
    region: Region
    value: float


@dataclass(frozen=True, slots=True)
class Map:
    """The finest parts, and the number when all of them are taken away."""

    units: list[Unit]
    empty: float


def cuts_of(run: Any, subject: Subject, baselines: Mapping[str, Baseline]) -> list[Cut]:
    """How each item of each input is cut."""
    found: list[Cut] = []
    for name in subject.inputs:
        fills = baselines[name].fills
        for item, value in enumerate(subject.items(name)):
            fill = fills[item] if fills else None
            found.append(_cut(run, subject, name, item, value, fill))
    return [cut for cut in found if cut.size]


def _cut(run: Any, subject: Subject, name: str, item: int, value: Any, fill: Any) -> Cut:
    modality = subject.media.get(name)
    if isinstance(value, str):
        return Words(name, item, value, fill, text=value)
    if isinstance(value, Sound):
        return Stretch(name, item, value, fill)
    if isinstance(value, Film):
        return Frames(name, item, value, fill)
    if isinstance(value, Row):
        return Columns(name, item, value, fill, names=(*modality.number_columns, *modality.category_columns))
    if run.recipe.inputs[name].modality == "tokens":
        return Words(name, item, value, fill, text=str(subject.raw(name, item)), modality=modality)
    if run.recipe.inputs[name].modality == "image":
        height, width = subject.upright(name, item).shape[:2]
        return Picture(name, item, value, fill, height=height, width=width, area=modality.area(height, width))
    return Vectors(name, item, value, fill)


def occlude(subject: Subject, cuts: Sequence[Cut]) -> Map:
    """The effect of every part, in two rounds."""
    rooms = _rooms(cuts)
    coarse = [(cut, region) for cut, room in rooms.items() for region in cut.coarse(_first(cut, room))]
    *values, empty = subject.values([*(variant(subject, [part]) for part in coarse), variant(subject, coarse)]).tolist()
    units = _units(subject, coarse, values)
    kept, parts = [], []
    for cut in cuts:
        own = sorted((unit for unit in units if unit.cut is cut), key=lambda unit: -abs(unit.value))
        for place, unit in enumerate(own):
            finer = cut.split(unit.region) if rooms[cut] >= 2 * CHILDREN and cut.size > rooms[cut] and place < max(1, len(own) // 4) else []
            parts += [(cut, region) for region in finer]
            kept += [] if finer else [unit]
    return Map(kept + _units(subject, parts, subject.values([variant(subject, [part]) for part in parts]).tolist()), empty)


def _first(cut: Cut, room: int) -> int:
    """How many parts it has in the first round: all its atoms where there is room, else half of the room."""
    return room if cut.size <= room else min(max(1, room // 2), COARSE)


def _units(subject: Subject, parts: Sequence[tuple[Cut, Region]], values: Sequence[float]) -> list[Unit]:
    return [Unit(cut, region, subject.whole - value) for (cut, region), value in zip(parts, values, strict=True)]


def _rooms(cuts: Sequence[Cut]) -> dict[Cut, int]:
    """How many rows each cut may cost; what a short one does not need goes to the others."""
    left, found = ROOM, {}
    for place, cut in enumerate(sorted(cuts, key=lambda cut: cut.size)):
        found[cut] = max(1, min(cut.size, left // (len(cuts) - place)))
        left -= found[cut]
    return {cut: found[cut] for cut in cuts}


def variant(subject: Subject, gone: Sequence[tuple[Cut, Region]]) -> Variant:
    """The inputs without some parts."""
    changed: dict[str, list[Any]] = {}
    for cut in dict.fromkeys(cut for cut, _ in gone):
        items = changed.setdefault(cut.input, subject.items(cut.input))
        items[cut.item] = cut.without([region for other, region in gone if other is cut])
    return {name: subject.joined(name, items) for name, items in changed.items()}
