"""Whole comparisons of tiny models: what must be found is found; other tasks; several processes; learning rates. Some take a minute."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_comparison as tiny

from chiasm.compare.engine import compare

LONGER = {"stages": {"steps": 150, "batch_size": 64, "learning_rate": 1e-2}}


def run(folder, *, rows=60, **more):
    changes = more.pop("recipe", {})
    recipe = {**tiny.RECIPE, "data": tiny.write_data(folder, rows), **changes}
    return compare(recipe, **{"output": folder / "out", "report": tiny.REPORT, "progress": False, "seeds": 1, **more})


def accuracy(found, name):
    return np.mean(found.summary["rows"][name])


@pytest.mark.slow
def test_an_interaction_is_found_by_what_interacts_only(tmp_path):
    """The label is the sign of a product: single inputs and their ensemble are blind to it, and so is whatever adds votes."""
    found = run(tmp_path, rows=400, recipe=LONGER, fusions="early,late,late:combine=decisions", seeds=3)
    assert accuracy(found, "late") > 0.85 and accuracy(found, "trees on frozen embeddings") > 0.85
    for name in ("left alone", "right alone", "ensemble of unimodal", "3x best unimodal", "majority"):
        assert accuracy(found, name) < 0.65
    rows = {row.name: row for row in found.comparison.rows}
    controlled = found.comparison.controlled
    for cell in rows["late"].cells:
        shuffled = np.mean([o == found.comparison.targets[i] for o, i in zip(cell.controls["right shuffled"], controlled, strict=True)])
        additive = [
            max(belief, key=belief.get) == found.comparison.targets[i] for belief, i in zip(cell.additive, controlled, strict=False)
        ]
        assert shuffled < 0.65 and len(additive) == 100 and np.mean(additive) < 0.75
    assert [len(rows[name].cells) for name in ("late", "ensemble of unimodal", "3x best unimodal", "majority")] == [3, 3, 1, 1]


@pytest.mark.slow
def test_processes_find_what_one_process_finds(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = run(tmp_path / "one", fusions="late"), run(tmp_path / "two", fusions="late", jobs=2)
    for row, other in zip(one.comparison.rows, two.comparison.rows, strict=True):
        assert [cell.probabilities for cell in row.cells] == [cell.probabilities for cell in other.cells]
        assert [cell.additive for cell in row.cells] == [cell.additive for cell in other.cells]


@pytest.mark.slow
def test_learning_rates_are_chosen_on_validation_for_every_row_alike(tmp_path):
    found = run(tmp_path, fusions="late,early", trials=3, match="params")
    chosen = json.loads((tmp_path / "out" / "trials.json").read_text())
    assert list(chosen) == ["late", "early", "left alone", "right alone"]
    for name, row in chosen.items():
        assert row["rates"] == chosen["late"]["rates"] and row["scores"][row["best"]] == max(row["scores"])
        remark = next(r.note for r in found.comparison.rows if r.name == name)
        assert "best of 3 learning rates" in remark and "median" in remark
    assert not list((tmp_path / "out" / "cells").glob("*-trial*/cell.json"))
    events = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert not [event for event in events if "trial" in event.get("cell", "")]
    sizes = [row.trainable for row in found.comparison.rows if row.kind == "fusion"]
    assert max(sizes) / min(sizes) < 1.03
    again = run(tmp_path, fusions="late,early", trials=3, match="params")
    assert again.summary == found.summary


@pytest.mark.slow
def test_numbers(tmp_path):
    tasks = {"measure": {"type": "regress", "target": "score", "dropout": 0.0}}
    found = run(tmp_path, recipe={"tasks": tasks, **LONGER}, fusions="early,late", seeds=3)
    comparison = found.comparison
    assert comparison.metric == "mean_absolute_error" and not comparison.higher_is_better
    error = {
        row.name: np.mean([abs(o - t) for cell in row.cells for o, t in zip(cell.outputs, comparison.targets, strict=True)])
        for row in comparison.rows
    }
    assert error["late"] < error["right alone"] < error["left alone"] < 1.2 * error["majority"]
    rows = {row.name: row for row in comparison.rows}
    assert rows["3x best unimodal"].inputs == ["right"] and rows["late"].cells[0].probabilities is None
    assert list(rows["late"].cells[0].additive[0]) == ["value"]
    gap = [
        abs(b["value"] - rows["late"].cells[0].outputs[i])
        for b, i in zip(rows["late"].cells[0].additive, comparison.controlled, strict=True)
    ]
    assert np.mean(gap) < 0.5  # the target is a sum, and so is nearly all that was learned


@pytest.mark.slow
def test_short_texts(tmp_path):
    changes = {
        "inputs": {**tiny.RECIPE["inputs"], "question": "text"},
        "backbone": {"arch": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "tokenizer": "words"},
        "tasks": {"say": {"type": "generate", "prompt": "{question} answer :", "target": "{label}", "generation": {"max_new_tokens": 2}}},
    }
    recipe = {**tiny.RECIPE, "data": tiny.write_data(tmp_path), **changes}
    for split in ("train", "validation", "test"):
        file = tmp_path / f"{split}.jsonl"
        records = [{**json.loads(line), "question": "which is it ?"} for line in file.read_text().splitlines()]
        file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    found = compare(recipe, fusions="early,late", seeds=1, output=tmp_path / "out", report=tiny.REPORT, progress=False)
    rows = {row.name: row for row in found.comparison.rows}
    assert found.comparison.metric == "exact_match"
    assert list(rows) == ["early", "late", "left alone", "right alone", "question alone", "majority"]
    cell = rows["early"].cells[0]
    assert all(isinstance(text, str) for text in cell.outputs) and not cell.coalitions and cell.additive is None
    assert len(cell.controls["question missing 0.5"]) == 60 and rows["question alone"].inputs == ["question"]
