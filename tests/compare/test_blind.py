"""Rows that train nothing: the commonest answer, and ensembles under every control."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chiasm.compare.blind import answers_of, commonest, ensemble, pick_task, require_short
from chiasm.compare.collect import thirds
from chiasm.compare.items import Items
from chiasm.compare.measure import Measured
from chiasm.compare.result import Cell
from chiasm.tasks.classify import Classify
from chiasm.tasks.contrast import Contrast
from chiasm.tasks.generate import Generate
from chiasm.tasks.regress import Regress
from chiasm.types import RecipeError, Sample

ITEMS = Items("test", [0, 1, 2], ["a", "b", "c"], [2, 0])
TEXT = {"q": "text"}


def task(kind, **options):
    made = kind("t", kind.Options(**options), TEXT)
    if kind is Classify:
        made.labels = ("yes", "no", "maybe")
    return made


def samples(*labels):
    return [Sample(f"s{i}", {"q": "x", "label": label}) for i, label in enumerate(labels)]


def test_the_commonest_answer():
    cell = commonest(task(Classify, target="label"), "label", samples("no", "no", "yes", None), ITEMS, 4)
    assert cell.outputs == ["no"] * 3 and cell.probabilities[1] == {"yes": 0.333333, "no": 0.666667, "maybe": 0.0} and cell.seed == 4
    assert commonest(task(Regress, target="label"), "number", samples(1, 2, 6), ITEMS, 0).outputs == [3.0] * 3
    found = commonest(task(Generate, target="{label}"), "text", samples("sun", "moon", "sun"), ITEMS, 0)
    assert found.outputs == ["sun"] * 3 and found.probabilities is None


def member(name, real, shuffled, nothing):
    """A model of one input: its probability of yes on three items, on the controlled ones shuffled, and without the input."""

    def told(values):
        return [{"yes": p, "no": 1 - p} for p in values]

    cell = Cell(0, ["yes" if p >= 0.5 else "no" for p in real], told(real), 2.0, 100, {"p50": 1.0, "p99": 2.0})
    cell.coalitions = {"": told(nothing), name: told([real[2], real[0]])}
    return Measured(cell, ["yes", "no", "yes"], {f"{name} shuffled": told(shuffled)})


def test_an_ensemble_is_the_mean_under_every_control():
    left, right = member("left", [0.9, 0.2, 0.6], [0.1, 0.3], [0.5, 0.5]), member("right", [0.3, 0.4, 0.8], [0.2, 0.2], [0.4, 0.4])
    found = ensemble([left, right], [["left"], ["right"]], ITEMS, "label", 7)
    cell = found.cell
    assert [belief["yes"] for belief in cell.probabilities] == pytest.approx([0.6, 0.3, 0.7]) and cell.outputs == ["yes", "no", "yes"]
    assert [belief["yes"] for belief in found.beliefs["left shuffled"]] == pytest.approx([(0.1 + 0.8) / 2, (0.3 + 0.3) / 2])
    assert cell.controls["right shuffled"] == ["no", "yes"] and cell.seed == 7
    assert [belief["yes"] for belief in cell.coalitions["left"]] == pytest.approx([(0.6 + 0.4) / 2, (0.9 + 0.4) / 2])
    assert [belief["yes"] for belief in cell.coalitions[""]] == pytest.approx([0.45, 0.45])
    assert [belief["yes"] for belief in cell.coalitions["left+right"]] == pytest.approx([0.7, 0.6])
    assert cell.train_seconds == 4.0 and cell.peak_memory == 100 and cell.latency == {"p50": 2.0, "p99": 4.0}


def test_an_ensemble_of_numbers():
    cells = [Cell(0, [1.0, 2.0, 3.0], None, coalitions={"": [{"value": 0.0}] * 2, "x": [{"value": 3.0}, {"value": 1.0}]}) for _ in "ab"]
    cells[1].outputs = [3.0, 2.0, 5.0]
    found = ensemble([Measured(cell, [1, 2, 3]) for cell in cells], [["x"], ["x"]], ITEMS, "number", 0)
    assert found.cell.outputs == [2.0, 2.0, 4.0] and found.cell.probabilities is None


def test_three_of_many_seeds_go_round():
    assert thirds([5, 6, 7]) == [(5, [0, 1, 2])]
    assert thirds([0, 1, 2, 3]) == [(0, [0, 1, 2]), (1, [1, 2, 3]), (2, [2, 3, 0]), (3, [3, 0, 1])]


def test_the_task_is_the_last_stages():
    tasks = {"align": task_contrast(), "pick": task(Classify, target="label"), "say": task(Generate, target="{label}")}
    recipe = SimpleNamespace(stages=[SimpleNamespace(tasks=["pick"]), SimpleNamespace(tasks=["align", "say"])])
    assert pick_task(recipe, tasks, None) == "say" and pick_task(recipe, tasks, "pick") == "pick"
    with pytest.raises(RecipeError, match="no task 'pik'; did you mean 'pick'"):
        pick_task(recipe, tasks, "pik")
    with pytest.raises(RecipeError, match="task align: compare needs"):
        pick_task(recipe, tasks, "align")
    recipe.stages[-1].tasks = ["align"]
    with pytest.raises(RecipeError, match="name another with --task"):
        pick_task(recipe, tasks, None)
    assert answers_of("pick", tasks["pick"]) == "label"


def task_contrast():
    return Contrast("align", Contrast.Options(between=("q", "label")), TEXT)


def test_long_texts_are_refused():
    require_short("t", ["red", "a blue cat"])
    with pytest.raises(RecipeError, match="writes long texts"):
        require_short("t", ["a cat that sits on a mat and looks at the moon"])
