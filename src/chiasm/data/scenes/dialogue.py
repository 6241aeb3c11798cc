"""Dialogues about one thing of a scene: the first question names it, the later ones say "it"."""

from __future__ import annotations

from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.layout import SLOTS, Scene
from chiasm.data.scenes.things import DIGITS

Turns = list[tuple[str, str]]  # (question, answer)


def dialogue(chance: Chance, scene: Scene) -> Turns:
    """Two to four turns. Without the first question the later ones cannot be answered."""
    slot, thing = chance.pick(tuple(scene.things.items()))
    place, beside = SLOTS[slot], scene.things.get(slot ^ 1)  # the other one of its row
    colour = ("what colour is it ?", thing.colour)
    digit = ("is it a digit ?", "yes" if thing.thing in DIGITS else "no")
    neighbour = ("what is beside it ?", beside.thing if beside else "nothing")
    first, known = chance.pick(
        (
            ((f"what is in the {place} ?", thing.thing), colour),
            ((f"where is the {thing.thing} ?", place), colour),
            ((f"what colour is the {thing.thing} ?", thing.colour), ("where is it ?", place)),
        )
    )
    return [first, *chance.shuffled((known, digit, neighbour), 1 + chance.below(3))]
