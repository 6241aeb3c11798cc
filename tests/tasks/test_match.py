"""Partners of image-text matching: another picture, another text, the same ones again in every evaluation."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from chiasm.tasks.match import Match, drawn, others
from chiasm.types import Batch, Occasion, RecipeError, Sample

INPUTS = {"image": "image"}
TEXTS = ["a cat", "a dog", "a cat", "a house", "a tree", "a dog", "a boat", "a car"]
ORDER = tuple(range(8))
UNITS = [(0,), (0,), (1,), (2,), (3,), (4, 5), (5, 6), ()]


class Ids:
    start_ids, close_ids, pad_id, placeholders_first = [1], [], 0, True
    layout: ClassVar[dict] = {}

    def encode(self, texts, *, user):
        return [[2 + len(word) for word in text.split()] for text in texts]

    def placeholders(self, name, sample, item=None):
        return []


def made(**options):
    return Match("match", Match.Options(between=("image", "caption"), **options), INPUTS)


def collated(task, key=None, order=ORDER, scored=True):
    samples = [Sample(f"row{i}", {"image": i, "caption": TEXTS[i]}) for i in order]
    units = {"image": [UNITS[i] for i in order]}
    return task.collate(samples, Ids(), Occasion(units, key, scored))


def partners(order=ORDER, key=None):
    """Row -> the row whose picture it also gets."""
    other = collated(made(), key, order)[1]["other"].tolist()
    return {i: list(order)[o] if o >= 0 else None for i, o in zip(order, other, strict=True)}


def test_a_partner_has_another_picture_and_another_text():
    allowed = others(UNITS, [sorted(set(TEXTS)).index(text) for text in TEXTS])
    for row, other in np.argwhere(allowed):
        assert not set(UNITS[row]) & set(UNITS[other]) and TEXTS[row] != TEXTS[other] and len(UNITS[row]) == len(UNITS[other])
    assert allowed[0].tolist() == [False, False, False, True, True, False, False, False]
    for epoch in range(20):
        found = partners(key=(0, epoch))
        assert all(other is None or allowed[row, other] for row, other in found.items())
        assert [row for row, other in found.items() if other is None] == [5, 6, 7], "the two pairs of pictures share one; 7 has none"


def test_draws_are_of_the_epoch_in_training_and_fixed_in_evaluation():
    assert partners() == partners() and partners() == partners(order=ORDER[::-1])
    assert len({tuple(partners(key=(0, epoch)).values()) for epoch in range(10)}) > 1
    assert partners(key=(0, 3)) == partners(key=(0, 3)) != partners(key=(1, 4))


def test_what_is_counted():
    _, targets = collated(made(), key=(0, 0))
    assert targets["weight"] == 7 + 5, "seven rows with a picture, five of them with another one too"
    _, at_use = collated(made(), scored=False)
    assert at_use["other"].tolist() == [-1] * 8, "one who asks gets one answer"


def test_without_any_picture_every_text_still_has_two_answers():
    samples = [Sample(f"row{i}", {"caption": TEXTS[i]}) for i in (0, 1, 3)]
    _, targets = made().collate(samples, Ids(), Occasion({"image": [(), (), ()]}))
    assert (targets["other"] >= 0).all() and targets["weight"] == 0


def test_draws_follow_weights():
    weights, luck = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]]).repeat(4, 1), torch.tensor([0.0, 0.24, 0.26, 0.999])
    assert drawn(weights, luck).tolist() == [1, 1, 3, 3]
    assert drawn(torch.zeros(1, 3), torch.tensor([0.5])).tolist() == [-1]


def test_hard_ones_are_those_that_the_contrast_task_finds_alike():
    task = made(hard=True, negatives="align")
    inputs, targets = collated(task, key=(0, 0))
    assert inputs["caption_ids"].shape[0] == len(set(TEXTS))
    texts, pictures = torch.zeros(len(set(TEXTS)), 8), torch.eye(8)
    texts[targets["same"]["caption"][0], 4] = 1.0  # to the contrast task "a cat" looks like the picture of row 4
    sides = {"caption": (texts, targets["same"]["caption"]), "image": (pictures, torch.arange(8))}
    contrast = SimpleNamespace(name="align", side=lambda model, batch, streams, side: sides[side])
    model = SimpleNamespace(tasks={"align": contrast}, heads={"align": SimpleNamespace(scale=lambda: torch.tensor(100.0))})
    other = task.hardest(model, Batch("match", [], inputs, targets), {})
    assert other[0] == 4 and other[7] == -1
    assert "luck" not in collated(task)[1], "evaluation takes any other picture"


def test_what_a_recipe_must_say():
    with pytest.raises(RecipeError, match="one side is an input with an encoder, the other a text column"):
        Match("match", Match.Options(between=("question", "caption")), {"image": "image", "question": "text"})
    with pytest.raises(RecipeError, match="hard: true and negatives: NAME"):
        made(hard=True)
    with pytest.raises(RecipeError, match="must hold the text, {caption}"):
        made(prompt="{image}")
    align = SimpleNamespace(sides=("caption", "image"))
    task = made(hard=True, negatives="algin")
    with pytest.raises(RecipeError, match="'algin' is not a contrast task between image and caption; known: align"):
        task.meet({"match": task, "align": align})
    made(hard=True, negatives="align").meet({"align": align})
