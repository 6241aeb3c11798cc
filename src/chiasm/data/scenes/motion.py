"""Short clips in which two things move, one after the other, or jump; and what can be asked about them.

No single frame tells which way a thing moves, which one moves first, or whether they swap. Of a clip's middle frame that is exact: where
the two things then are is drawn ahead of, and apart from, what they do. (A first or last frame gives a little away, since a thing that
moves left cannot have begun at the left edge.)
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.draw import Placed, draw
from chiasm.data.scenes.layout import SplitPlan, make_background, pick_hand, pick_thing
from chiasm.data.scenes.things import COLOURS, NEW_COLOUR, held_out
from chiasm.types import Drawn, Film

SIDE, SIZE = 64, 14  # pixels of a frame and of a thing
FRAMES, RATE = 8, 4.0  # of a clip; frames a second
MIDDLE = FRAMES // 2  # from this frame on the second thing moves; up to it the first one does
STEP = 3  # pixels a frame
REACH = STEP * (MIDDLE - 1)  # how far a thing moves
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TEMPLATES = (
    "which way does the move ?",
    "what colour moves first ?",
    "do they swap ?",
    "what colour is the ?",
    "what thing is ?",
    "yes no",
)


class Clip(NamedTuple):
    background: tuple[int, int, int]
    frames: tuple[tuple[Placed, ...], ...]
    first: Placed  # where it is in the middle frame, as is the second
    second: Placed
    directions: tuple[str, str] | None  # of the first and of the second thing; None where they jump
    swap: bool = False


class Asked(NamedTuple):
    kind: str
    text: str
    answer: str


def make_clip(chance: Chance, plan: SplitPlan, *, jumps: bool) -> Clip:
    """Two things that move one after the other, or that jump at once: to each other's place, or each to a new one."""
    first, second = _two_things(chance, plan)
    here, there = _places(chance)
    first, second = (thing._replace(x=x, y=y) for thing, (x, y) in ((first, here), (second, there)))
    background = make_background(chance)
    if jumps:
        swap, cut = chance.uniform() < 0.5, MIDDLE + chance.below(3) - 1
        before = (there, here) if swap else _places(chance)
        old = tuple(thing._replace(x=x, y=y) for thing, (x, y) in zip((first, second), before, strict=True))
        return Clip(background, (old,) * cut + ((first, second),) * (FRAMES - cut), first, second, None, swap)
    ways = chance.pick(tuple(DIRECTIONS)), chance.pick(tuple(DIRECTIONS))
    steps = range(1 - MIDDLE, FRAMES - MIDDLE + 1)
    frames = tuple((_moved(first, ways[0], min(0, step)), _moved(second, ways[1], max(0, step - 1))) for step in steps)
    return Clip(background, frames, first, second, ways)


def questions(chance: Chance, clip: Clip) -> list[Asked]:
    """Three about every clip, each thing as likely as the other to be asked about."""
    things = (clip.first, clip.second)
    seen = [
        Asked("colour", f"what colour is the {(thing := chance.pick(things)).thing} ?", thing.colour),
        Asked("thing", f"what thing is {(thing := chance.pick(things)).colour} ?", thing.thing),
    ]
    if clip.directions is None:
        return [Asked("swap", "do they swap ?", "yes" if clip.swap else "no"), *seen]
    asked = chance.below(2)
    thing = things[asked]
    return [
        Asked("direction", f"which way does the {thing.colour} {thing.thing} move ?", clip.directions[asked]),
        Asked("order", "what colour moves first ?", clip.first.colour),
        chance.pick(seen),
    ]


def make_single(chance: Chance, plan: SplitPlan) -> Clip:
    """One thing that moves in one half of the clip or the other; its direction stands in both places."""
    thing, _ = _two_things(chance, plan)
    thing = thing._replace(x=REACH + chance.below(SIDE - SIZE - 2 * REACH + 1), y=REACH + chance.below(SIDE - SIZE - 2 * REACH + 1))
    way, early = chance.pick(tuple(DIRECTIONS)), chance.below(2)
    steps = range(1 - MIDDLE, FRAMES - MIDDLE + 1)
    frames = tuple((_moved(thing, way, min(0, step) if early else max(0, step - 1)),) for step in steps)
    return Clip(make_background(chance), frames, thing, thing, (way, way))


def film(clip: Clip) -> Film:
    """uint8 [FRAMES, SIDE, SIDE, 3] and their times."""
    return Film(np.stack([draw(SIDE, clip.background, things) for things in clip.frames]), np.arange(FRAMES) / RATE)


def drawn(key: str, clip: Clip) -> Drawn:
    return Drawn(key, partial(film, clip))


def _two_things(chance: Chance, plan: SplitPlan) -> list[Placed]:
    """Different things in different colours; of new pairs one is at least."""
    pairs: dict[str, str] = {}  # thing -> colour
    while len(pairs) < 2:
        thing, colour = pick_thing(chance), chance.pick(tuple(COLOURS))
        if plan.new_pairs and not pairs:
            colour = NEW_COLOUR.get(thing, "")
        usable = colour and thing not in pairs and colour not in pairs.values()
        if usable and (plan.new_pairs or not held_out(thing, colour)):
            pairs[thing] = colour
    return chance.shuffled([Placed(thing, colour, SIZE, 0, 0, pick_hand(chance, plan, thing)) for thing, colour in pairs.items()])


def _places(chance: Chance) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners of two squares from which either may move any way without leaving the picture or meeting the other."""
    while True:
        numbers = [REACH + chance.below(SIDE - SIZE - 2 * REACH + 1) for _ in range(4)]
        across, down = abs(numbers[0] - numbers[2]), abs(numbers[1] - numbers[3])
        if max(across, down) >= SIZE + REACH or min(across, down) >= SIZE:
            return (numbers[0], numbers[1]), (numbers[2], numbers[3])


def _moved(thing: Placed, way: str, steps: int) -> Placed:
    across, down = DIRECTIONS[way]
    return thing._replace(x=thing.x + across * steps * STEP, y=thing.y + down * steps * STEP)
