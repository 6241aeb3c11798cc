"""The known answers: the rules on summaries that obey and break them, the shipped recipes, and one case run for real (slow: all)."""

from __future__ import annotations

import json

import pytest

import chiasm
from chiasm.compare.known import (
    CASES,
    ENSEMBLE,
    Case,
    above,
    at_chance,
    at_most,
    failures,
    last,
    learned,
    nobody_beats_the_ensemble,
    suffices,
)
from chiasm.recipe import load_recipe
from chiasm.types import RecipeError


def row(name, kind, score, *, outcome="tie", in_top=False, by_seed=None):
    against = {"outcome": outcome, "difference": 0.1, "p_holm": 0.01, "detectable": 0.02, "interval": (0.05, 0.15), "item_detectable": None}
    return {
        "name": name,
        "kind": kind,
        "score": score,
        "by_seed": by_seed or [score] * 3,
        "in_top": in_top,
        "against_reference": None if name == ENSEMBLE else against,
        "above_majority": True,
        "interaction": None,
        "controls": {},
        "shares": None,
        "sd": 0.0,
        "unstable": False,
        "cost": {"parameters": 1, "macs": 1},
    }


def summary(*rows, top=()):
    for found in rows:
        found["in_top"] = found["name"] in top
    common = {"metric": "accuracy", "unit": "points", "higher_is_better": True, "seeds": [0, 1, 2], "screening": True}
    found = {"rows": list(rows), "top": list(top), "reference": ENSEMBLE, "majority": None, "recommended": top[0] if top else None}
    return common | found | {"detectable": 0.02, "item_detectable": None, "item_half_width": None, "best": top[0] if top else None}


def broken(rule, found):
    return failures(Case("test", "a claim", (), (rule,)), found)


def test_rules_on_scores():
    found = summary(row("early", "fusion", 0.9, by_seed=[0.95, 0.3, 0.92]), row("late", "fusion", 0.11), row(ENSEMBLE, "ensemble", 0.5))
    assert not broken(learned("early", 0.9), found) and "`early` must reach 0.96" in broken(learned("early", 0.96), found)[0]
    assert not broken(at_chance("late"), found) and "found `early` 0.900" in broken(at_chance("early"), found)[0]
    assert not broken(at_most("late", 0.2), found) and broken(at_most("early", 0.2), found)
    assert not broken(above("early", ENSEMBLE, 0.3), found) and broken(above("early", ENSEMBLE, 0.5), found)
    assert not broken(last("late"), found) and broken(last("early"), found)


def test_a_row_that_is_not_there_is_named():
    assert broken(at_chance("audio alone"), summary(row("early", "fusion", 0.9))) == ["test: the table has no row `audio alone`"]


def test_nobody_may_beat_the_ensemble():
    rule = nobody_beats_the_ensemble()
    tied = summary(row("early", "fusion", 0.9), row(ENSEMBLE, "ensemble", 0.9), top=("early", ENSEMBLE))
    ahead = summary(row("early", "fusion", 0.99, outcome="better"), row(ENSEMBLE, "ensemble", 0.9), top=("early",))
    assert not broken(rule, tied)
    assert "no fusion may be called better" in broken(rule, ahead)[0]


def test_one_input_and_no_other_must_suffice():
    rows = [
        row(ENSEMBLE, "ensemble", 0.5),
        row("early", "fusion", 0.9),
        row("image alone", "unimodal", 0.9),
        row("audio alone", "unimodal", 0.9),
    ]
    assert not broken(suffices("image alone"), summary(*rows, top=("early", "image alone")))
    assert broken(suffices("image alone"), summary(*rows, top=("early", "image alone", "audio alone")))
    assert broken(suffices("image alone"), summary(*rows, top=("early",)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_has_its_recipe(case):
    recipe = load_recipe(case.recipe)
    assert recipe.data.builtin == "digits" and recipe.data.variant == case.name and case.rules


def test_a_wrong_name_gets_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'match'"):
        chiasm.known_answers(tmp_path, cases=["mach"])


@pytest.mark.slow
def test_a_comparison_that_learned_nothing_is_told(tmp_path):
    """Two steps cannot learn; the case must fail, by name, and its file must say so."""
    (found,) = chiasm.known_answers(tmp_path, cases=["missing"], seeds=1, overrides=["stages.0.steps=2"], progress=False)
    assert [failure.startswith("missing: `early [modality_dropout=0.3]` must be at least 0.05 above") for failure in found.failures] == [
        True
    ]
    (kept,) = json.loads((tmp_path / "known.json").read_text())
    assert kept == found.as_json() and found.lines[0].startswith("WRONG")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answers_come_out(case, tmp_path):
    (found,) = chiasm.known_answers(tmp_path, cases=[case.name], progress=False)
    assert not found.failures
