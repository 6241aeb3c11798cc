"""What a row costs, and that --match brings every strategy to the same budget within 3 %."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_comparison as tiny

from chiasm.compare.cost import TOLERANCE, Built, bracket, match
from chiasm.compare.recipes import checked, fitted, parse_strategies, with_connectors, with_fusion
from chiasm.recipe import load_recipe
from chiasm.training.materials import assemble


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_recipe(tiny.recipe(tmp_path_factory.mktemp("data"))).model_dump(mode="json", exclude_none=True)


def built(base, name):
    (strategy,) = parse_strategies(name)
    data = with_fusion(base, strategy)
    materials = assemble(checked(data, name))
    return Built(fitted(data, materials.model), materials, "pick"), strategy


def test_macs_are_those_of_the_layers(base):
    """Three tokens (two columns and one) pass two mlps of width 8 -> h -> 16: a wider h costs tokens * (8 + 16) more for each unit of h."""
    row, _ = built(base, "early")
    narrow, wide = (with_connectors(base, hidden, row.streams) for hidden in (10, 25))
    costs = []
    for data in (narrow, wide):
        row.refit({**data, "fusion": row.data["fusion"]})
        costs.append(row.cost())
    assert costs[1].macs - costs[0].macs == pytest.approx(15 * (8 + 16) * 3, abs=15 * (8 + 16))  # a row may lack one side
    assert costs[1].parameters - costs[0].parameters == 2 * 15 * (8 + 16 + 1)


def test_encoders_are_not_counted_and_frozen_parts_do_not_train(base):
    frozen = {**base, "backbone": {**base["backbone"], "train": "none"}}
    row, _ = built(frozen, "late")
    cost, model = row.cost(), row.model.model
    whole, encoders, backbone = (sum(p.numel() for p in part.parameters()) for part in (row.model, model.encoders, model.language_model))
    assert encoders and cost.parameters == whole - encoders and cost.trainable == whole - encoders - backbone


FIVE = ["early", "late", "gated_cross_attention", "co_attention", "bottleneck"]


@pytest.mark.parametrize(
    ("name", "unit"),
    [*((name, "params") for name in (*FIVE, "late:combine=low_rank")), *((name, "macs") for name in ("early", "late", "co_attention"))],
)
def test_every_strategy_meets_the_budget(base, name, unit):
    row, strategy = built(base, name)
    target = round(2.7 * row.budget(unit))
    data, note = match(row, strategy, target, unit)
    assert abs(row.budget(unit) / target - 1) <= TOLERANCE and "NOT" not in note
    again, _ = built(data, name)  # the recipe that comes out builds exactly this model
    assert again.budget(unit) == row.budget(unit)


def test_a_width_that_was_asked_for_is_kept(base):
    row, strategy = built(base, "late:width=5")
    data, note = match(row, strategy, 4 * row.budget("params"), "params")
    assert data["fusion"]["width"] == 5 and "connectors" in note


def test_a_budget_that_cannot_be_met_is_said(base):
    row, strategy = built(base, "gated_cross_attention")
    _, note = match(row, strategy, row.budget("params") // 10, "params")
    assert note.startswith("NOT matched") and "%" in note
    assert row.budget("params") > row.budget("params") // 10


def test_bracket_finds_the_neighbours():
    for target in (1, 2, 57, 999, 5000):
        (low, under), (high, over) = bracket(lambda n: 3 * n + 2, target, 1000)
        assert under == 3 * low + 2 and over == 3 * high + 2 and (low == high == 1 or under < target <= over or high == 1000)
        assert high - low <= 1
    assert bracket(lambda n: 7, 50, 1000) is None
