"""What trains in a stage, by part."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import build, recipe

from chiasm.training.stages import apply_stage, parameter_groups, set_modes
from chiasm.types import RecipeError


def applied(train, encoders=None, edit=lambda model: None, **keys):
    made = recipe(stages=[{"steps": 1, "train": train}], encoders=encoders or {})
    model = build()(None).model
    edit(model)
    rows = apply_stage(model, made, made.stages[0], **keys)
    return model, {row.part: row.trainable for row in rows if row.trainable}, rows


def test_all_parts_train_where_none_is_named():
    model, trains, rows = applied(None)
    assert set(trains) == set(model.parts()) and sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())


def test_a_prefix_covers_what_is_below_it():
    _, trains, _ = applied(["encoders"])
    assert set(trains) == {"encoders.seen", "encoders.seen.connector", "encoders.heard", "encoders.heard.connector"}
    _, trains, _ = applied(["encoders.seen.connector", "tasks.answer"])
    assert set(trains) == {"encoders.seen.connector", "tasks.answer"}


def test_a_part_s_own_train_is_the_most():
    _, trains, _ = applied(None, encoders={"features": {"train": "none"}})
    assert "encoders.seen" not in trains and "encoders.seen.connector" in trains
    _, trains, _ = applied(["encoders.seen"], encoders={"seen": {"train": "none"}})
    assert set(trains) == {"encoders.seen.connector"}


def test_the_last_layers_only():
    def three_layers(model):
        model.encoders["seen"] = nn.Sequential(nn.Linear(6, 6), nn.ModuleList(nn.Linear(6, 6) for _ in range(3)))

    model, trains, _ = applied(["encoders.seen"], encoders={"seen": {"train": 2}}, edit=three_layers)
    layers = model.encoders["seen"][1]
    assert [layer.weight.requires_grad for layer in layers] == [False, True, True] and trains["encoders.seen"] == 2 * 42
    with pytest.raises(RecipeError, match="4 layers are more than its 3"):
        applied(None, encoders={"seen": {"train": 4}}, edit=three_layers)


def test_what_cannot_train_is_refused_with_the_key():
    with pytest.raises(RecipeError, match=r"stages.main.train: no part 'encoder.seen'; did you mean 'encoders.seen'\?"):
        applied(["encoder.seen"])
    with pytest.raises(RecipeError, match="'backbone' has nothing that may train"):
        applied(["backbone", "fusion"], edit=lambda model: setattr(model, "backbone", nn.Identity()))
    with pytest.raises(RecipeError, match="lora, but the part has no adapters"):
        applied(None, encoders={"seen": {"train": {"lora": {"rank": 2}}}})


def test_adapters_alone_train_under_lora():
    def adapted(model):
        model.encoders["seen"].lora_A = nn.Linear(6, 2)

    model, trains, _ = applied(["encoders.seen"], encoders={"seen": {"train": {"lora": {}}}}, edit=adapted)
    assert trains["encoders.seen"] == 14 and not model.encoders["seen"][0].weight.requires_grad


def test_frozen_modules_stay_in_eval_mode():
    model, _, _ = applied(["fusion", "backbone"])
    modes = {name: module.training for name, module in model.named_modules()}
    assert modes["backbone.3"] and modes["fusion"] and not modes["encoders.seen.1"] and not modes["encoders.seen.2"]
    model.eval()
    set_modes(model)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_shared_parameters_belong_to_the_first_part():
    def tied(model):
        model.heads["both"].weight = model.heads["answer"].weight

    _, trains, rows = applied(None, edit=tied)
    assert trains["tasks.both"] == 3 and sum(row.parameters for row in rows) == 21 + 3 + sum(
        row.parameters for row in rows if not row.part.startswith("tasks")
    )


def test_only_matrices_decay():
    model, _, _ = applied(None)
    model.extra = nn.Embedding(3, 4)
    model.place = nn.Parameter(torch.zeros(3, 4))
    decayed, plain = parameter_groups(model, weight_decay=0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    ids = {id(p) for p in plain["params"]}
    assert {id(model.extra.weight), id(model.place), id(model.backbone[0].weight), id(model.fusion.mix.bias)} <= ids
    assert len(decayed["params"]) + len(ids) == len(list(model.parameters()))
