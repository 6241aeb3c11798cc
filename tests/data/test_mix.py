"""Several files as one split: every record once, or in shares."""

import json
from collections import Counter

import numpy as np
import pytest

from chiasm.data.opening import open_source
from chiasm.data.order import plan_epoch
from chiasm.data.sources.scenes import Scenes
from chiasm.data.split import Split
from chiasm.data.views import mixed
from chiasm.recipe import DataSpec, load_recipe
from chiasm.types import RecipeError


@pytest.fixture
def folder(tmp_path):
    for name, count in (("a/rows", 6), ("b/rows", 4), ("texts", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"from": name, "n": n}) + "\n" for n in range(count)))
    (tmp_path / "empty.jsonl").write_text("")
    return tmp_path


def opened(folder, train):
    return open_source(DataSpec(train=train, validation="texts.jsonl"), "train", folder)


def test_a_list_is_every_record_once(folder):
    source = opened(folder, ["a/rows.jsonl", "b/rows.jsonl"])
    assert Counter(source.column("from")) == {"a/rows": 6, "b/rows": 4}
    ids = [source.origin(i)[0] for i in range(len(source))]
    assert ids[0] == "a/rows.jsonl:1" and ids[-1] == "b/rows.jsonl:4" and len(set(ids)) == 10
    assert source.rounds() is None


def test_shares_are_kept_and_no_record_is_left_out(folder):
    source = opened(folder, {"mix": {"a/rows.jsonl": 2, "texts.jsonl": 3.0}})
    counts = Counter(zip(source.column("from"), source.column("n"), strict=True))
    of = {name: sum(times for (where, _), times in counts.items() if where == name) for name in ("a/rows", "texts")}
    assert of == {"a/rows": 6, "texts": 9}, "6 : 9 is 2 : 3, and the one that is large for its share is read once"
    assert set(counts.values()) == {1, 3} and len(counts) == 9
    assert opened(folder, {"mix": {"a/rows.jsonl": 4, "texts.jsonl": 1}}).column("from").count("a/rows") == 12


def test_the_same_record_is_not_twice_in_one_place(folder):
    """Rows about one picture stay together; a record that is read again is put elsewhere."""
    source = mixed([Scenes("things", scenes=40), Scenes("words", scenes=5)], [1, 1])
    split = Split(source, {})
    groups = split.outline().groups
    assert len(source) == 80 and len(set(groups.tolist())) == 80
    plan = plan_epoch(split, seed=0, epoch=0, batch_size=8)
    assert sorted(np.concatenate(plan).tolist()) == list(range(80))
    most = max(max(Counter(source.origin(i)[0] for i in batch).values()) for batch in plan)
    assert most < 8, "eight times the same word would be no mixture"


def test_built_in_splits_can_be_mixed():
    source = open_source(DataSpec(builtin="scenes", train={"mix": ["dialogue", "shots"]}), "train")
    assert len(source) == 40_000 and {"history", "shots"} <= set(source.columns)


def test_what_is_wrong_is_named(folder):
    def message(**spec):
        with pytest.raises(RecipeError) as error:
            open_source(DataSpec(**spec), next(iter(spec)), folder)
        return str(error.value)

    assert "data.train.mix: empty.jsonl has no records" in message(train={"mix": ["texts.jsonl", "empty.jsonl"]}, validation="texts.jsonl")
    assert "shares repeat records, which only training may" in message(validation={"mix": {"texts.jsonl": 1}}, train="texts.jsonl")
    recipe = {"inputs": {"a": "text"}, "tasks": {"t": {"type": "generate", "target": "{b}"}}}
    with pytest.raises(RecipeError, match="give either file: NAME or mix"):
        load_recipe({**recipe, "data": {"train": {"join": {"file": "x.csv", "key": "k"}}}})
    with pytest.raises(RecipeError, match="a number > 0"):
        load_recipe({**recipe, "data": {"train": {"mix": {"a.jsonl": 0}}}})
