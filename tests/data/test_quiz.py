"""The built-in `quiz`: every answer true, and no part of a row alone tells what takes several of them."""

from collections import Counter

import numpy as np
import pytest

from chiasm.data.quiz.rows import PLEASED, WARM
from chiasm.data.scenes.layout import HANDWRITING
from chiasm.data.scenes.things import DIGITS
from chiasm.data.sources.quiz import COLUMNS, Quiz
from chiasm.types import RecipeError


def rows(split="test", number=2000):
    source = Quiz(split)
    return [source.read(i).parts for i in range(min(number, len(source)))]


def most_frequent(columns, target, given):
    """How often the most frequent target of each combination of `columns` is the right one."""
    groups = {}
    for row in given:
        groups.setdefault(tuple(row.get(c) for c in columns), Counter())[row[target]] += 1
    return sum(counter.most_common(1)[0][1] for counter in groups.values()) / len(given)


def test_a_row_depends_on_seed_split_and_number_only():
    first, again = Quiz("train").read(7), Quiz("train").read(7)
    assert first.id == "train:7" and first.parts["caption"] == again.parts["caption"]
    assert np.array_equal(first.parts["image"].draw(), again.parts["image"].draw())
    assert np.array_equal(first.parts["audio"].draw().samples, again.parts["audio"].draw().samples)
    assert Quiz("train", seed=1).read(7).parts["image"].key != first.parts["image"].key


def test_every_answer_is_true():
    for row in rows():
        assert set(row) <= set(COLUMNS)
        shown = row["image"].draw.args[2][0]
        assert (row["thing"], row["colour"]) == (shown.thing, shown.colour)
        assert row["audio"].key.endswith(f"/{row['heard']}") and row["same"] == ("yes" if row["heard"] == shown.thing else "no")
        match row["question"].split():
            case ["what", "colour", *_]:
                assert row["answer"] == shown.colour
            case ["what", *_]:
                assert row["answer"] == shown.thing
            case ["is", "it", asked, "?"]:
                assert row["answer"] == ("yes" if asked == shown.colour else "no")
        digit = row["heard"] in DIGITS
        assert row["sound_answer"] == (row["heard"] if row["sound_question"].startswith("what") else "yes" if digit else "no")
        votes = (row["opinion"].split()[2] in PLEASED) + (shown.colour in WARM) + digit
        assert row["feeling"] == ("negative", "negative", "positive", "positive")[votes]


def test_no_part_alone_tells_what_takes_several():
    given = rows("train", 6000)
    assert most_frequent(["question"], "answer", given) < 0.4
    assert most_frequent(["thing"], "same", given) < 0.65 and most_frequent(["heard"], "same", given) < 0.65
    digits = [{**row, "digit": row["heard"] in DIGITS} for row in given]
    for two in (["opinion", "colour"], ["opinion", "digit"], ["colour", "digit"]):
        assert most_frequent(two, "feeling", digits) < 0.8
    assert most_frequent(["opinion", "colour", "digit"], "feeling", digits) == 1.0
    new = [{**row, "new": "new" in row["advert"]} for row in given]
    assert most_frequent(["new"], "dear", new) < 0.8 and most_frequent(["price", "shop"], "dear", new) < 0.95
    assert most_frequent(["price", "shop", "new"], "dear", [row for row in new if "shop" in row]) == 1.0


def test_handwriting_and_voices_of_the_test_are_never_met_in_training():
    hands = {split: {row["image"].draw.args[2][0].hand for row in rows(split)} - {-1} for split in ("train", "validation", "test")}
    assert all(hand in HANDWRITING[split] for split, found in hands.items() for hand in found)
    voices = {split: {row["audio"].key.split("-")[0] for row in rows(split)} for split in ("train", "test")}
    assert not voices["train"] & voices["test"]


def test_an_unknown_split_names_the_near_one():
    with pytest.raises(RecipeError, match="did you mean 'test'"):
        Quiz("tset")
