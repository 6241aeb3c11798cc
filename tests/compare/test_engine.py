"""A comparison from the recipe to comparison.json: plan, cells that are kept, stops, replay, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_comparison as tiny

import chiasm
from chiasm.compare import cell as cells
from chiasm.compare.cell import TEST_OPENED, Work, slug
from chiasm.compare.collect import commit
from chiasm.compare.engine import compare, replay
from chiasm.compare.plan import Plan, rates
from chiasm.types import ChiasmError, RecipeError
from chiasm_cli import main

SINGLE = ["left alone", "right alone"]


def run(folder, **more):
    settings = {"fusions": "late", "seeds": 1, "output": folder / "out", "report": tiny.REPORT, "progress": False, **more}
    return compare(tiny.recipe(folder, **settings.pop("recipe", {})), **settings)


def times(folder):
    """When each trained model was written."""
    return {path.parent.parent.name: path.stat().st_mtime_ns for path in (folder / "out" / "cells").glob("*/model/config.json")}


def events(folder):
    return [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return SimpleNamespace(folder=folder, found=run(folder))


def test_every_row_is_there_with_every_column(done):
    comparison = done.found.comparison
    rows = {row.name: row for row in comparison.rows}
    assert list(rows) == ["late", *SINGLE, "ensemble of unimodal", "trees on frozen embeddings", "majority"]
    assert [row.kind for row in rows.values()] == ["fusion", "unimodal", "unimodal", "ensemble", "trees", "majority"]
    assert comparison.task == "pick" and comparison.metric == "accuracy" and comparison.split == "test" and comparison.seeds == [0]
    assert len(comparison.ids) == len(comparison.targets) == len(comparison.controlled) == 60
    assert comparison.command == "chiasm compare RECIPE --fusion late --seeds 1 --trials 1" and comparison.commit == commit()
    for row in rows.values():
        (cell,) = row.cells
        assert len(cell.outputs) == len(cell.probabilities) == 60 and set(cell.outputs) <= {"same", "other"}
        assert row.kind == "majority" or (cell.train_seconds > 0 and cell.peak_memory > 1e8 and cell.latency["p50"] > 0)
    for name, inputs in (("late", ["left", "right"]), ("left alone", ["left"]), ("trees on frozen embeddings", ["left", "right"])):
        (cell,) = rows[name].cells
        wanted = [f"{i} {how}" for i in inputs for how in ("shuffled", *(f"missing {f:g}" for f in (0, 0.25, 0.5, 0.75, 1)))]
        assert list(cell.controls) == wanted and all(len(outputs) == 60 for outputs in cell.controls.values())
        assert set(cell.coalitions) == ({"", "left", "right", "left+right"} if len(inputs) == 2 else {"", "left"})
        assert rows[name].inputs == inputs and (cell.additive is None) == (len(inputs) == 1)
    assert len(rows["late"].cells[0].additive) == 60
    assert rows["late"].macs > 0 and rows["late"].trainable == rows["late"].parameters > rows["left alone"].parameters > 0
    assert rows["ensemble of unimodal"].macs == sum(rows[name].macs for name in SINGLE)


def test_the_ensemble_is_the_mean_of_the_single_inputs(done):
    rows = {row.name: row.cells[0] for row in done.found.comparison.rows}
    for i in (0, 7, 59):
        mean = sum(rows[name].probabilities[i]["same"] for name in SINGLE) / 2
        assert rows["ensemble of unimodal"].probabilities[i]["same"] == pytest.approx(mean, abs=1e-5)


def test_a_cell_is_a_run_that_answers_alike(done):
    loaded = chiasm.load(done.folder / "out" / "cells" / "late-seed0")
    rows = [{"left": {"a": r["a"], "b": r["b"]}, "right": {"c": r["c"]}} for r in records(done.folder, "test") if "c" in r]
    places = [i for i, r in enumerate(records(done.folder, "test")) if "c" in r]
    cell = next(row for row in done.found.comparison.rows if row.name == "late").cells[0]
    assert [p.output for p in loaded.predict(rows)] == [cell.outputs[i] for i in places]
    assert not (loaded.folder / "checkpoints").exists()


def records(folder, split):
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def test_the_test_split_is_opened_once_per_cell(done):
    opened = [event["cell"] for event in events(done.folder) if event["event"] == TEST_OPENED]  # listing the items is an event of its own
    assert sorted(opened) == sorted(["late-seed0", "left-alone-seed0", "right-alone-seed0", "trees-on-frozen-embeddings", "majority"])


def test_replay_is_bit_identical(done):
    stored = (done.folder / "out" / "comparison.json").read_bytes()
    again = replay(done.folder / "out", report=tiny.REPORT)
    assert json.dumps(again.summary) == json.dumps(done.found.summary) == json.dumps(json.loads(stored)["summary"])
    assert again.comparison == done.found.comparison and again.lines == done.found.lines
    assert (done.folder / "out" / "comparison.json").read_bytes() == stored
    with pytest.raises(ChiasmError, match="not a finished comparison"):
        replay(done.folder, report=tiny.REPORT)


def test_the_same_command_makes_nothing_again(done, monkeypatch):
    before, opened = times(done.folder), events(done.folder)
    monkeypatch.setattr(cells, "run_training", None)
    monkeypatch.setattr(cells, "measure", None)
    again = run(done.folder)
    assert again.summary == done.found.summary and times(done.folder) == before and events(done.folder) == opened


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"stages": {"steps": 7, "batch_size": 16, "learning_rate": 1e-3}}}, "another recipe .stages.0.steps: 6 -> 7"),
        ({"match": "params"}, "begun with match None, not params"),
        ({"trials": 2}, "begun with trials 1, not 2"),
        ({"fusions": "lat"}, "unknown fusion 'lat'; did you mean 'late'"),
        ({"fusions": "late:combine=tenso"}, "fusion late:combine=tenso: .*tensor"),
        ({"fusions": "late:widht=3"}, "did you mean fusion.width"),
        ({"task": "pik"}, "no task 'pik'; did you mean 'pick'"),
        ({"seeds": 0}, "--seeds 0"),
        ({"match": "flops"}, "--match flops: write params or macs"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(done, changes, message):
    folder = done.folder if "begun" in message or "another" in message else done.folder.parent / "fresh"
    folder.mkdir(exist_ok=True)
    with pytest.raises(RecipeError, match=message) as error:
        run(folder, **changes)
    assert "\n" not in str(error.value)


def test_a_cell_that_was_trained_otherwise_is_refused(done):
    path = done.folder / "out" / "cells" / "left-alone-seed0" / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("steps: 6", "steps: 5"), encoding="utf-8")
    try:
        with pytest.raises(RecipeError, match="left-alone-seed0 was trained with another recipe .stages.0.steps: 5 -> 6"):
            run(done.folder)
    finally:
        path.write_text(text, encoding="utf-8")


def test_a_killed_comparison_goes_on(done, tmp_path, monkeypatch):
    """Killed in the second cell's measurement: neither the first cell nor the second's training is done again, and all comes out alike."""
    real, calls = cells.measure, iter(range(9))

    def dying(*args, **kwargs):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(cells, "measure", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    before = times(tmp_path)
    assert set(before) == {"late-seed0", "left-alone-seed0"}
    trained: list[str] = []
    training = cells.run_training

    def counted(recipe, **more):
        trained.append(more["output"].name)
        training(recipe, **more)

    monkeypatch.setattr(cells, "measure", real)
    monkeypatch.setattr(cells, "run_training", counted)
    found = run(tmp_path)
    assert trained == ["right-alone-seed0"] and {name: times(tmp_path)[name] for name in before} == before
    assert found.summary == done.found.summary


def test_the_folder_says_how_to_go_on(tmp_path):
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ChiasmError, match="go on with the same"):
        replay(tmp_path, report=tiny.REPORT)


def test_a_single_input_cannot_be_compared(tmp_path):
    tasks = {"pick": {"type": "classify", "target": "label"}}
    with pytest.raises(RecipeError, match="reads only left"):
        run(tmp_path, recipe={"inputs": {"left": tiny.RECIPE["inputs"]["left"]}, "tasks": tasks})


def test_default_fusions_that_cannot_be_built_are_left_out_with_a_note(tmp_path, monkeypatch):
    """Ready-made features have no fixed length, which early fusion needs: a note by default, an error where it was asked for."""
    changes = {
        "inputs": {"left": {"modality": "features", "column": "v"}, "right": tiny.RECIPE["inputs"]["right"]},
        "encoders": {"right": {"width": 8}},
    }
    recipe = tiny.recipe(tmp_path, **changes)
    for split in ("train", "validation", "test"):
        lines = [{**record, "v": [record["a"], record["b"]]} for record in records(tmp_path, split)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    class Planned(Exception):
        pass

    def stop(plan, *more):
        raise Planned(plan)

    monkeypatch.setattr(sys.modules["chiasm.compare.engine"], "announce", stop)
    with pytest.raises(Planned) as planned:
        compare(recipe, seeds=3, output=tmp_path / "out", report=tiny.REPORT, progress=False)
    plan = planned.value.args[0]
    assert [row.name for row in plan.rows if row.kind == "fusion"] == ["gated_cross_attention", "late"]
    assert any("early is left out: " in note and "fixed number" in note for note in plan.notes)
    assert plan.row("left alone").recipe["fusion"]["type"] == "cross_attention"
    assert plan.row("right alone").recipe["fusion"]["type"] == "early"
    assert plan.row("3x best unimodal").kind == "ensemble" and Plan.load(tmp_path / "out") == plan
    with pytest.raises(RecipeError, match="fusion early: .*fixed number"):
        compare(recipe, fusions="early", output=tmp_path / "other", report=tiny.REPORT, progress=False)


def test_rates_and_names():
    drawn = rates(5)
    assert drawn[0] == 1.0 and len(set(drawn)) == 5 and all(10**-0.5 <= factor <= 10**0.5 for factor in drawn)
    assert rates(3) == drawn[:3]
    assert slug("late:combine=tensor") == "late-combine=tensor" and Work("left alone", 2).name == "left-alone-seed2"
    assert Work("late", 0, 3).name == "late-trial3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "a recipe to compare fusions on, --known-answers, --replay FOLDER"),
        (["compare", "demo", "--replay", "x"], "give one of"),
        (["compare", "demo", "--fusion", "erly"], "unknown fusion 'erly'; did you mean 'early'"),
        (["compare", "demo", "--fusion", "late:combine"], "'combine' is no option"),
        (["compare", "demo", "--vary", "train.seed=1"], "write key=value,value"),
        (["compare", "demo", "--vary", "fusion.type=early,late"], "stand with its name"),
        (["compare", "demo", "--match", "flops"], "write params or macs"),
        (["compare", "demo", "--seeds", "0"], "--seeds"),
        (["compare", "--replay", "nowhere"], "nowhere: not a finished comparison"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.run(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
