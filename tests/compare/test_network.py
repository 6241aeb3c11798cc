"""A real model as an Answerer: exchanging inputs among encoded rows is the same as rows that were written so."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_comparison as tiny

from chiasm.compare.measure import Network, validate, whole
from chiasm.compare.recipes import alone, checked
from chiasm.compare.trees import Trees, unusable
from chiasm.recipe import load_recipe
from chiasm.training.materials import assemble

COLUMNS = {"left": ("a", "b"), "right": ("c",)}


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    recipe = tiny.recipe(tmp_path_factory.mktemp("data"), fusion="cross_attention")
    return assemble(load_recipe(recipe)), load_recipe(recipe)


def written(split, places, sources, number):
    """The row that asks `places[number]` with other rows' inputs, as a file would have it."""
    sample = split.source.read(places[number])
    parts = dict(sample.parts)
    for name, taken in sources.items():
        other = {} if taken[number] is None else split.source.read(taken[number]).parts
        parts |= {column: other.get(column) for column in COLUMNS[name]}
    return replace(sample, id=f"{sample.id}.{number}", parts=parts)


class Rewritten:
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def read(self, index):
        return self.samples[index]

    def origin(self, index):
        return self.samples[index].id, "x", index

    notes, columns = (), ("a", "b", "c", "label")


ASKED = [0, 3, 3, 7, 8, 1]
SOURCES = {"left": [2, None, 0, 7, 4, 7], "right": [0, 1, None, 3, 7, 1]}


@pytest.mark.parametrize("kind", ["network", "trees"])
def test_exchanged_inputs_are_as_if_written_so(materials, kind):
    made, recipe = materials
    split, task = made.split("test"), made.tasks["pick"]
    answerer = Network(made.model, made.processor, task)
    if kind == "trees":
        answerer = Trees(made.model, made.processor, task, recipe, "label", seed=0)
        answerer.fit(made.split("train"))
        assert unusable(recipe) == []
    assert answerer.inputs == ["left", "right"]
    said = answerer.block(split.open_rows(range(10))).answer(ASKED, SOURCES)
    same = type(split)(Rewritten([written(split, ASKED, SOURCES, n) for n in range(len(ASKED))]), split.modalities)
    opened = same.open_rows(range(len(ASKED)))
    literal = answerer.block(opened).answer(range(len(opened)), {})
    assert [p.probabilities for p in said] == [pytest.approx(p.probabilities, abs=1e-5) for p in literal]
    assert [p.target for p in said] == [p.target for p in literal]
    assert len({p.probabilities["same"] for p in said}) > 3  # it is no constant


def test_trees_find_what_is_there(materials):
    made, recipe = materials
    trees = Trees(made.model, made.processor, made.tasks["pick"], recipe, "label", seed=0)
    trees.fit(made.split("train"))
    assert validate(trees, made.split("train"), made.tasks["pick"], "accuracy") > 0.85


def test_a_row_without_its_only_input_is_answered_too(materials):
    base = materials[1].model_dump(mode="json", exclude_none=True)
    made = assemble(checked(alone(base, "right", fixed=True), "right alone"))
    answerer, split = Network(made.model, made.processor, made.tasks["pick"]), made.split("test")
    opened = split.open_rows(range(10))
    assert "right" not in opened[7].values  # its column is empty in the data
    said = whole(answerer, opened)
    assert len(said) == 10 and answerer.inputs == ["right"]
    gone = answerer.block(opened).answer(range(10), {"right": [None] * 10})
    assert gone[0].probabilities == pytest.approx(said[7].probabilities, abs=1e-6)


def test_only_encoders_that_train_hide_their_input_from_trees():
    inputs = {"photo": "image", "sound": "audio", "row": "table", "text": "text"}
    encoders = {"image": {"arch": "resnet", "train": "none"}, "audio": {"arch": "resnet"}}
    recipe = load_recipe({**tiny.RECIPE, "inputs": inputs, "encoders": encoders, "data": {"train": "x.jsonl"}})
    assert unusable(recipe) == ["sound"]
