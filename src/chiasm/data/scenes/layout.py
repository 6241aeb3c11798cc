"""Decides what a picture holds: which things, in which colours, where, in whose handwriting; and what each split may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.draw import CROP, SIZES, Placed, digits
from chiasm.data.scenes.things import BACKGROUNDS, COLOURS, DIGITS, NEW_COLOUR, PICTOGRAMS, held_out

SLOTS = ("top left", "top right", "bottom left", "bottom right")  # slot s is column s % 2 of row s // 2
HANDWRITING = {"train": range(1200), "validation": range(1200, 1400), "test": range(1400, 1797)}  # rows of scikit-learn's digits

_COUNTS = (1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4)  # things in a scene
_DIGIT_SHARE = 0.4  # of all things
_SAME_COLOUR_SHARE = 0.3  # how often a thing takes the colour of an earlier one, so that counting a colour is worth asking
_COLOUR_NAMES, _PICTOGRAM_NAMES = tuple(COLOURS), tuple(PICTOGRAMS)


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """What a split is made of."""

    size: int  # scenes, or rows where a row is not a scene
    people: str = "train"  # whose handwriting (a key of HANDWRITING) and whose voices
    new_pairs: bool = False  # every scene shows at least one colour-thing pair that training never shows
    unit: str = "scene"  # "scene", "thing" (crops of single things), "word" (spoken), "view" (shown, said or told), "dialogue" or "shots"
    new_colours: bool = False  # of shots: made-up words stand for colours that they never stand for in training
    views: tuple[str, ...] = ()  # of rows of views: which of them row after row has, by turns


TRAINED_VIEWS = ("caption+image", "caption+audio")
OTHER_VIEWS = ("caption+image+audio", "image+audio", "caption", "image", "audio")

SPLITS = {
    "train": SplitPlan(20_000),
    "validation": SplitPlan(100, "validation"),
    "test": SplitPlan(1_000, "test"),
    "test_new_pairs": SplitPlan(1_000, "test", new_pairs=True),
    "things": SplitPlan(20_000, unit="thing"),
    "words": SplitPlan(10_000, unit="word"),  # at most: there are as many rows as clips
    "words_test": SplitPlan(10_000, "test", unit="word"),
    "dialogue": SplitPlan(20_000, unit="dialogue"),
    "dialogue_test": SplitPlan(1_000, "test", unit="dialogue"),
    "shots": SplitPlan(20_000, unit="shots"),
    "shots_test": SplitPlan(1_000, "test", unit="shots"),
    "shots_new": SplitPlan(1_000, "test", new_colours=True, unit="shots"),
    "views": SplitPlan(20_000, unit="view", views=TRAINED_VIEWS),
    "views_test": SplitPlan(3_500, "test", unit="view", views=(*TRAINED_VIEWS, *OTHER_VIEWS)),
}


class Scene(NamedTuple):
    background: tuple[int, int, int]
    things: Mapping[int, Placed]  # slot -> thing; no thing occurs twice


def make_scene(chance: Chance, plan: SplitPlan) -> Scene:
    slots = chance.shuffled(range(4), chance.pick(_COUNTS))
    pairs: dict[str, str] = {}  # thing -> colour
    while len(pairs) < len(slots):
        thing = pick_thing(chance)
        if thing in pairs:
            continue
        if plan.new_pairs and not pairs:
            if thing in NEW_COLOUR:
                pairs[thing] = NEW_COLOUR[thing]
            continue
        colour = chance.pick(tuple(pairs.values())) if pairs and chance.uniform() < _SAME_COLOUR_SHARE else chance.pick(_COLOUR_NAMES)
        if plan.new_pairs or not held_out(thing, colour):
            pairs[thing] = colour
    placed = {slot: _place(chance, plan, thing, colour, slot) for slot, (thing, colour) in zip(slots, pairs.items(), strict=True)}
    return Scene(make_background(chance), dict(sorted(placed.items())))


def make_crop(chance: Chance, plan: SplitPlan, given: str | None = None) -> Scene:
    """A scene of one thing, in slot 0, of the colour `given` or of any."""
    while True:
        thing, colour = pick_thing(chance), given or chance.pick(_COLOUR_NAMES)
        if not held_out(thing, colour):
            return Scene(make_background(chance), {0: _place(chance, plan, thing, colour, 0)})


def absent_thing(chance: Chance, scene: Scene) -> str:
    """A thing that the scene does not show; digits are as frequent among these as among those that scenes show."""
    present = {placed.thing for placed in scene.things.values()}
    while (thing := pick_thing(chance)) in present:
        pass
    return thing


def pick_thing(chance: Chance) -> str:
    return chance.pick(DIGITS if chance.uniform() < _DIGIT_SHARE else _PICTOGRAM_NAMES)


def _place(chance: Chance, plan: SplitPlan, thing: str, colour: str, slot: int) -> Placed:
    size = chance.pick(SIZES)
    x, y = (CROP * half + chance.below(CROP - size + 1) for half in (slot % 2, slot // 2))
    return Placed(thing, colour, size, x, y, pick_hand(chance, plan, thing))


def pick_hand(chance: Chance, plan: SplitPlan, thing: str) -> int:
    """Whose handwriting a digit is in; -1 of anything else."""
    return chance.pick(_rows(plan.people)[thing]) if thing in DIGITS else -1


def make_background(chance: Chance) -> tuple[int, int, int]:
    lighter = chance.below(17) - 8
    red, green, blue = chance.pick(BACKGROUNDS)
    return red + lighter, green + lighter, blue + lighter


@cache
def _rows(people: str) -> dict[str, tuple[int, ...]]:
    """Digit -> the rows of its handwriting that these people wrote."""
    labels = digits()[1].tolist()
    return {name: tuple(row for row in HANDWRITING[people] if labels[row] == value) for value, name in enumerate(DIGITS)}
