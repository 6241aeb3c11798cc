"""Few-shot binding (Frozen, Tsimpoukelli et al., 2021): made-up words stand for two colours, other ones in every row; examples tell which.

A row without examples can only be guessed (1 of 6 words), one example is of the asked colour half of the time, from two on both colours
are shown. What is never bound in training: the colours of NEW.
"""

from __future__ import annotations

from typing import NamedTuple

from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.layout import Scene, SplitPlan, make_crop
from chiasm.data.scenes.things import COLOURS

MADE_UP = ("dax", "wug", "fep", "zup", "blick", "toma")
NEW = ("purple", "brown")
MOST = 4


class Shots(NamedTuple):
    """Pictures of one thing each, with their words; the last one is asked about."""

    pictures: list[Scene]
    words: list[str]


def make_shots(chance: Chance, plan: SplitPlan, count: int) -> Shots:
    """`count` examples and a question."""
    known = [name for name in COLOURS if name not in NEW]
    colours = list(NEW) if plan.new_colours else known
    pair = chance.shuffled(colours, 2)
    names = dict(zip(pair, chance.shuffled(MADE_UP, 2), strict=True))
    examples = [*pair, *(chance.pick(pair) for _ in range(MOST - 2))][:count]
    shown = [*(chance.shuffled(examples) if count > 2 else examples), chance.pick(pair)]
    return Shots([make_crop(chance, plan, colour) for colour in shown], [names[colour] for colour in shown])
