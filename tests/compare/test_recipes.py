"""The recipes of a comparison: strategies by name, and what is left of a recipe with one input alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_comparison import RECIPE

from chiasm.compare.recipes import (
    alone,
    checked,
    connector_of,
    encoder_of,
    parse_strategies,
    varied,
    with_connectors,
    with_fusion,
    with_rate,
    with_seed,
)
from chiasm.recipe import load_recipe
from chiasm.types import RecipeError

VQA = {
    "inputs": {"photo": "image", "sound": "audio", "question": "text", "context": "text"},
    "encoders": {"image": {"arch": "resnet", "grid": 2}, "sound": {"arch": "resnet", "tokens": 1}},
    "backbone": {"arch": "gpt2", "tokenizer": "words"},
    "fusion": {"type": "cross_attention", "normalize": True, "start": "random"},
    "tasks": {
        "look": {"type": "contrast", "between": ["photo", "context"]},
        "match": {"type": "contrast", "between": ["photo", "sound"]},
        "answer": {"type": "generate", "prompt": "{photo} Context: {context} Question: {question} Answer:", "target": "{answer}"},
    },
    "data": {"train": "x.jsonl"},
    "stages": [
        {"name": "match", "tasks": ["match"], "epochs": 1},
        {"name": "look", "tasks": ["look"], "train": ["encoders.photo", "encoders.sound.connector", "fusion", "tasks.look"], "epochs": 1},
        {"name": "ask", "tasks": ["answer", "match"], "learning_rate": 1e-3, "epochs": 2},
    ],
    "train": {"modality_dropout": {"photo": 0.1, "question": 0.2}, "best": "validation answer.exact_match", "seed": 5},
}


def plain(recipe):
    return load_recipe(recipe).model_dump(mode="json", exclude_none=True)


def test_strategies_are_read_with_their_options():
    early, late, hybrid = parse_strategies("early, late:combine=tensor:width=8 ,hybrid:parts=[{type: early, inputs: [a]}, {type: late}]")
    assert (early.name, early.type, early.options) == ("early", "early", {})
    assert (late.type, late.options) == ("late", {"combine": "tensor", "width": 8}) and late.name == "late:combine=tensor:width=8"
    assert hybrid.options["parts"][0] == {"type": "early", "inputs": ["a"]}
    (same,) = parse_strategies([{"type": "late", "combine": "tensor", "width": 8}])
    assert same == late
    (outside,) = parse_strategies("chiasm.fusion.late:Late:combine=sum")
    assert outside.type == "chiasm.fusion.late:Late" and outside.options == {"combine": "sum"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("early,lat", "unknown fusion 'lat'; did you mean 'late'"),
        ("early,early", "names 'early' twice"),
        ("none", "no input meet the backbone"),
        ("late:combine", "'combine' is no option"),
        ("late:combine=sum:width", "'width' is no option"),
        ("late:=3", "'=3' is no option"),
        ("", "names no strategy"),
    ],
)
def test_a_wrong_strategy_is_one_line(given, message):
    with pytest.raises(RecipeError, match=message) as error:
        parse_strategies(given)
    assert "\n" not in str(error.value)


def test_a_wrong_option_names_the_nearest():
    (strategy,) = parse_strategies("late:conbine=tensor")
    with pytest.raises(RecipeError, match="fusion late:conbine=tensor: .*did you mean fusion.combine"):
        checked(with_fusion(plain({**RECIPE, "data": {"train": "x.jsonl"}}), strategy), f"fusion {strategy.name}")


def test_only_the_fusion_changes():
    base = plain(VQA)
    late, same = (with_fusion(base, strategy) for strategy in parse_strategies("late,cross_attention:every=2"))
    assert late["fusion"] == {"type": "late", "normalize": True}
    assert same["fusion"] == {"type": "cross_attention", "normalize": True, "start": "random", "every": 2}
    assert {**late, "fusion": 0} == {**same, "fusion": 0} == {**base, "fusion": 0}


def test_one_picture_alone():
    recipe = checked(alone(plain(VQA), "photo", fixed=True), "photo alone")
    assert list(recipe.inputs) == ["photo"] and list(recipe.encoders) == ["photo"] and recipe.encoders["photo"].arch == "resnet"
    assert recipe.fusion.type == "early" and recipe.fusion.options == {"normalize": True}
    assert list(recipe.tasks) == ["look", "answer"] and recipe.tasks["answer"].options["prompt"] == "{photo} Context: Question: Answer:"
    assert [(stage.name, stage.tasks) for stage in recipe.stages] == [("look", ["look"]), ("ask", ["answer"])]
    assert recipe.stages[0].train == ["encoders.photo", "fusion", "tasks.look"]
    assert recipe.train.modality_dropout == {"photo": 0.1} and recipe.train.best == "validation answer.exact_match"
    assert alone(plain(VQA), "photo", fixed=False)["fusion"]["type"] == "cross_attention"


def test_one_text_alone():
    recipe = checked(alone(plain(VQA), "question", fixed=False), "question alone")
    assert list(recipe.inputs) == ["question"] and not recipe.encoders and recipe.fusion.type == "none"
    assert list(recipe.tasks) == ["answer"] and recipe.tasks["answer"].options["prompt"] == "Context: {question} Answer:".replace(
        "{question}", "Question: {question}"
    )
    assert [stage.name for stage in recipe.stages] == ["ask"]


def test_what_cannot_be_left_is_said():
    recipe = plain({**VQA, "tasks": {"match": VQA["tasks"]["match"]}, "stages": VQA["stages"][:1], "train": {}})
    with pytest.raises(RecipeError, match="no stage"):
        alone(recipe, "photo", fixed=True)


@pytest.mark.parametrize("shipped", ["demo", "easy_vqa", "av_digits"])
def test_single_input_recipes_of_what_is_shipped_are_valid(shipped):
    base = plain(shipped)
    for name in base["inputs"]:
        recipe = checked(alone(base, name, fixed=True), f"{name} alone")
        assert list(recipe.inputs) == [name]


def test_seed_rate_and_connectors():
    base = plain(VQA)
    assert with_seed(base, 7)["train"]["seed"] == 7 and base["train"]["seed"] == 5
    assert [stage["learning_rate"] for stage in with_rate(base, 2.0)["stages"]] == [6e-4, 6e-4, 2e-3]
    wider = with_connectors(base, 33, ["photo", "sound"])
    assert connector_of(wider, "photo") == connector_of(wider, "sound") == {"type": "mlp", "hidden": 33}
    assert encoder_of(wider, "photo")["arch"] == "resnet" and encoder_of(base, "photo")["connector"] == {"type": "linear"}
    checked(wider, "wider")


def test_vary_trains_every_strategy_with_every_value():
    base = plain(VQA)
    rows = varied(
        parse_strategies("early,late:combine=sum"), ["train.modality_dropout=0,{photo: 0.5}", "stages.ask.learning_rate=1e-3,1e-4"]
    )
    assert len(rows) == 8 and rows[0].name == "early [modality_dropout=0] [learning_rate=1e-3]"
    data = [with_fusion(base, row) for row in rows]
    assert [d["fusion"]["type"] for d in data] == ["early"] * 4 + ["late"] * 4
    assert [d["train"]["modality_dropout"] for d in data[:4]] == [0, 0, {"photo": 0.5}, {"photo": 0.5}]
    assert [d["stages"][2]["learning_rate"] for d in data[:4]] == [1e-3, 1e-4, 1e-3, 1e-4]
    assert base == plain(VQA), "the recipe itself is left as it was"


@pytest.mark.parametrize("given", ["train.seed", "train.seed=1", "fusion.type=early,late"])
def test_vary_says_what_to_write(given):
    with pytest.raises(RecipeError, match=f"--vary {given}: "):
        varied(parse_strategies("early"), [given])
