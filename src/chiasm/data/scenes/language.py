"""What is said about a scene: one caption, and questions of ten kinds with their answers, in a small closed vocabulary.

Words are lower-case and separated by spaces, so that a tokenizer of whole words needs no training.
"""

from __future__ import annotations

from typing import NamedTuple

from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.layout import SLOTS, Scene, absent_thing
from chiasm.data.scenes.things import COLOURS, DIGITS, THINGS

WRITTEN = 6  # written questions about every scene; one more is spoken
_SIDES = ("left of", "right of", "above", "below")
_TEMPLATES = (
    "what is in the ?",
    "what colour is the ?",
    "where is the ?",
    "how many things digits are there ?",
    "is there a an ?",
    "what is the sum modulo ten ?",
    "what colour is this thing ?",
    "where is this thing ?",
    "is there one of these ?",
    "yes no and above",
)
WORDS = tuple(sorted(set(" ".join((*_TEMPLATES, *_SIDES, *SLOTS, *COLOURS, *THINGS)).split())))


class Question(NamedTuple):
    kind: str
    text: str
    answer: str
    heard: str | None = None  # the word that is spoken, where the text does not name the thing


def caption(scene: Scene) -> str:
    """E.g. `a red cat and a blue seven above an orange star`; a thing on its own is told with its place."""
    rows = [[with_article(f"{t.colour} {t.thing}") for s, t in scene.things.items() if s // 2 == row] for row in (0, 1)]
    text = " above ".join(" and ".join(row) for row in rows if row)
    return f"{text} in the {SLOTS[next(iter(scene.things))]}" if len(scene.things) == 1 else text


def told(chance: Chance, thing: str, colour: str) -> str:
    """`a red cat`, or as often `a red thing`, which leaves it to a picture or a voice."""
    return with_article(f"{colour} {thing if chance.uniform() < 0.5 else 'thing'}")


def written_questions(chance: Chance, scene: Scene) -> list[Question]:
    """WRITTEN different questions: always the sum (where there is a digit) and a colour's count, then a draw of the other kinds."""
    others = [what, colour, where, exists, relation, chance.pick((count, count_kind, count_kind))]
    queue = [sum_of_digits, count_colour, *chance.shuffled(others)]
    asked: dict[str, Question] = {}
    while len(asked) < WRITTEN:  # what runs out of things to ask about passes; `exists` never does
        ask = queue.pop(0)
        queue.append(exists if ask is sum_of_digits else ask)
        question = ask(chance, scene)
        if question:
            asked.setdefault(question.text, question)
    return chance.shuffled(list(asked.values()))


def spoken_question(chance: Chance, scene: Scene) -> Question:
    """A question about a thing that is heard: its colour, its place, or whether it is there."""
    form = chance.uniform()
    slot, thing = chance.pick(tuple(scene.things.items()))
    if form < 0.4:
        return Question("spoken", "what colour is this thing ?", thing.colour, thing.thing)
    if form < 0.7:
        return Question("spoken", "where is this thing ?", SLOTS[slot], thing.thing)
    heard, answer = _maybe_there(chance, scene)
    return Question("spoken", "is there one of these ?", answer, heard)


def what(chance: Chance, scene: Scene) -> Question:
    slot, thing = chance.pick(tuple(scene.things.items()))
    return Question("what", f"what is in the {SLOTS[slot]} ?", thing.thing)


def colour(chance: Chance, scene: Scene) -> Question:
    thing = chance.pick(tuple(scene.things.values()))
    return Question("colour", f"what colour is the {thing.thing} ?", thing.colour)


def where(chance: Chance, scene: Scene) -> Question:
    slot, thing = chance.pick(tuple(scene.things.items()))
    return Question("where", f"where is the {thing.thing} ?", SLOTS[slot])


def exists(chance: Chance, scene: Scene) -> Question:
    thing, answer = _maybe_there(chance, scene)
    return Question("exists", f"is there {with_article(thing)} ?", answer)


def count(chance: Chance, scene: Scene) -> Question:
    return Question("count", "how many things are there ?", DIGITS[len(scene.things)])


def count_kind(chance: Chance, scene: Scene) -> Question:
    return Question("count_kind", "how many digits are there ?", DIGITS[len(_digits(scene))])


def count_colour(chance: Chance, scene: Scene) -> Question:
    """Asks for a colour with none, one, two ... things, whichever the scene has, equally often."""
    by_count: dict[int, list[str]] = {}
    shown = [thing.colour for thing in scene.things.values()]
    for name in COLOURS:
        by_count.setdefault(shown.count(name), []).append(name)
    number, names = chance.pick(tuple(by_count.items()))
    return Question("count_colour", f"how many {chance.pick(names)} things are there ?", DIGITS[number])


def relation(chance: Chance, scene: Scene) -> Question | None:
    """What stands beside, over or under a thing; None where no two things share a row or a column."""
    pairs = [(a, b) for a in scene.things for b in scene.things if a != b and (a // 2 == b // 2 or a % 2 == b % 2)]
    if not pairs:
        return None
    known, asked = chance.pick(pairs)
    side = _SIDES[asked > known] if known // 2 == asked // 2 else _SIDES[2 + (asked > known)]
    return Question("relation", f"what is {side} the {scene.things[known].thing} ?", scene.things[asked].thing)


def sum_of_digits(chance: Chance, scene: Scene) -> Question | None:
    values = _digits(scene)
    return Question("sum", "what is the sum modulo ten ?", DIGITS[sum(values) % 10]) if values else None


def _digits(scene: Scene) -> list[int]:
    return [DIGITS.index(thing.thing) for thing in scene.things.values() if thing.thing in DIGITS]


def _maybe_there(chance: Chance, scene: Scene) -> tuple[str, str]:
    """A thing that is there or one that is not, equally often, and the answer."""
    if chance.uniform() < 0.5:
        return chance.pick(tuple(scene.things.values())).thing, "yes"
    return absent_thing(chance, scene), "no"


def with_article(words: str) -> str:
    """`a red cat`, `an orange cat`, `a one`."""
    vowel = words[0] in "aeiou" and words != "one"
    return f"{'an' if vowel else 'a'} {words}"
