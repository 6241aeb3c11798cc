"""What a row of `quiz` says about the thing that it shows and the word that it says.

Every column that is a target needs each of the parts that it is meant to be learned from; which, the builders say.
"""

from __future__ import annotations

from typing import Any

from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.draw import Placed
from chiasm.data.scenes.language import with_article
from chiasm.data.scenes.things import COLOURS, DIGITS, PICTOGRAMS, THINGS

SHOPS = ("market", "corner shop", "museum", "online")
WARM = ("red", "yellow", "orange", "brown")
PLEASED, CROSS = ("lovely", "great", "merry", "sweet"), ("dreadful", "sad", "dull", "sour")
_COLOURS = tuple(COLOURS)


def row(chance: Chance, shown: Placed) -> tuple[str, dict[str, Any]]:
    """(the word that is said, the columns besides picture and sound)."""
    heard = shown.thing if chance.uniform() < 0.5 else another_word(chance, shown.thing)
    parts = {
        "thing": shown.thing,
        "colour": shown.colour,
        "heard": heard,
        "same": "yes" if heard == shown.thing else "no",
        "caption": with_article(f"{shown.colour} {shown.thing}"),
        **question(chance, shown),
        **spoken(chance, heard),
        **opinion(chance, shown, heard),
        **offer(chance, shown),
        **history(chance, shown),
    }
    return heard, parts


def another_word(chance: Chance, thing: str) -> str:
    """The word for another thing; digits so often that they are half of all words that are said."""
    kind = DIGITS if chance.uniform() < 0.6 else tuple(PICTOGRAMS)
    return other(chance, kind, thing) if thing in kind else chance.pick(kind)


def question(chance: Chance, shown: Placed) -> dict[str, str]:
    """What is asked of the picture. Neither the question nor the picture alone tells the answer."""
    kind = chance.pick(("what", "colour", "is"))
    if kind == "is":
        right = chance.uniform() < 0.5
        asked = shown.colour if right else other(chance, _COLOURS, shown.colour)
        return {"question": f"is it {asked} ?", "answer": "yes" if right else "no", "kind": kind}
    if kind == "colour":
        return {"question": "what colour is it ?", "answer": shown.colour, "kind": kind}
    return {"question": "what is it ?", "answer": shown.thing, "kind": kind}


def spoken(chance: Chance, heard: str) -> dict[str, str]:
    """What is asked of the voice: the word, or whether it is a digit (half of the words are)."""
    if chance.uniform() < 0.5:
        return {"sound_question": "what is said ?", "sound_answer": heard}
    return {"sound_question": "is it a digit ?", "sound_answer": "yes" if heard in DIGITS else "no"}


def opinion(chance: Chance, shown: Placed, heard: str) -> dict[str, str]:
    """What someone says; a warm colour and the word for a digit please as well. The feeling is what two of words, picture and voice say."""
    pleased = chance.uniform() < 0.5
    votes = pleased + (shown.colour in WARM) + (heard in DIGITS)
    return {"opinion": f"what a {chance.pick(PLEASED if pleased else CROSS)} day", "feeling": "positive" if votes > 1 else "negative"}


def offer(chance: Chance, shown: Placed) -> dict[str, Any]:
    """An advertisement and a table. Whether it is dear takes the words (`new` or `used`), the price and the shop, if it is told."""
    shop, new, price = chance.pick(SHOPS), chance.uniform() < 0.5, chance.below(100)
    fair = 30 + 30 * new + 20 * (shop == "museum")
    told = {"shop": shop} if chance.uniform() < 0.9 else {}
    return {"advert": f"a {'new' if new else 'used'} {shown.thing}", "price": price, **told, "dear": "yes" if price > fair else "no"}


def history(chance: Chance, shown: Placed) -> dict[str, str]:
    """What someone bought before: things of the shown colour and the shown kind, in any order, never the shown thing itself."""
    same_colour = with_article(f"{shown.colour} {other(chance, THINGS, shown.thing)}")
    same_thing = with_article(f"{other(chance, _COLOURS, shown.colour)} {shown.thing}")
    return {"history": f"for the colour {same_colour} and for the thing {same_thing}"}


def other(chance: Chance, names: tuple[str, ...], name: str) -> str:
    """One of `names` that is not `name`."""
    index = chance.below(len(names) - 1)
    return names[index + (index >= names.index(name))]
