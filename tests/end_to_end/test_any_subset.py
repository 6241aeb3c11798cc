"""Rows that have any subset of the inputs train, are scored and answer side by side, with modality dropout, for every fusion and task."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import pytest

import chiasm
from chiasm.training.log import read_log

INPUTS = ("left", "right", "note")
SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(INPUTS, size)]
GPT2 = {"arch": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "tokenizer": "words"}
BERT = {
    "kind": "bidirectional",
    "arch": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 48,
    "tokenizer": "words",
}
LATE = {"type": "late", "combine": "gated"}
HYBRID = {"type": "hybrid", "parts": [{"type": "early", "inputs": ["left"]}, {"type": "gated_cross_attention"}]}
FUSIONS = {"early": "early", "cross_attention": "cross_attention", "co_attention": "co_attention", "late": LATE, "hybrid": HYBRID}
QUERIES = {"type": "q_former", "tokens": 2, "heads": 2, "depth": 1}
TASKS = {
    "label": {"type": "classify", "target": "label", "prompt": "{note}", "metrics": ["accuracy"]},
    "size": {"type": "regress", "target": "size", "prompt": "size of {note} :", "metrics": ["mean_absolute_error"]},
    "say": {"type": "generate", "target": "{label}", "prompt": "{note} is", "generation": {"max_new_tokens": 2}},
    "pair": {"type": "contrast", "between": ["left", "right"]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """56 rows: every subset of the inputs eight times."""
    rows = []
    for number, subset in enumerate(SUBSETS * 8):
        label = "odd" if number % 2 else "even"
        sign = 1.0 if number % 2 else -1.0
        parts = {"left": [[sign, 0.0], [0.5, float(number % 3)]], "right": [[0.0, sign, 0.3]], "note": f"number {number % 5}"}
        rows.append({name: parts[name] for name in subset} | {"label": label, "size": sign * (1 + number % 3)})
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def recipe(data: Path, fusion: str, absent: str, backbone: dict, tasks: dict) -> dict:
    spec = {"type": FUSIONS[fusion]} if isinstance(FUSIONS[fusion], str) else FUSIONS[fusion]
    return {
        "inputs": {"left": "features", "right": "features", "note": "text"},
        "encoders": {"features": {"connector": QUERIES}},
        "backbone": backbone,
        "fusion": {**spec, "absent": absent},
        "tasks": tasks,
        "data": {"train": str(data), "test": str(data)},
        "stages": {"epochs": 2, "batch_size": 14, "learning_rate": 3e-3},
        "train": {"precision": "fp32", "device": "cpu", "modality_dropout": {"left": 0.3, "right": 0.3, "note": 0.3}},
    }


QUICK = [("early", GPT2, "none"), ("co_attention", BERT, "learned")]
CELLS = [(fusion, backbone, absent) for fusion in FUSIONS for backbone in (GPT2, BERT) for absent in ("none", "learned")]


@pytest.mark.parametrize(
    ("fusion", "backbone", "absent"), [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow) for cell in CELLS]
)
def test_any_subset_trains_and_predicts(data: Path, tmp_path: Path, fusion: str, backbone: dict, absent: str):
    tasks = TASKS if backbone is GPT2 else {name: TASKS[name] for name in ("label", "size")}
    run = chiasm.train(recipe(data, fusion, absent, backbone, tasks), output=tmp_path / "run", progress=False)
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert len(steps) == 8 and not any("skipped" in line for line in steps)
    counts = json.loads((tmp_path / "run" / "data.json").read_text())["train"]
    assert counts["used"] == counts["read"] > 40
    assert all(counts["notes"][f"{name}: hidden by modality dropout"] > 0 for name in INPUTS)
    for name, metric in (("label", "accuracy"), ("size", "mean_absolute_error"), ("say", "exact_match")):
        scored = [f"{name}.{metric}", *(f"{name}.{metric}[{input} {how}]" for input in INPUTS for how in ("shuffled", "missing"))]
        assert name not in tasks or all(math.isfinite(run.metrics["test"][score]) for score in scored)
    answers_alike(chiasm.load(run.folder), tasks)


def answers_alike(run: chiasm.Run, tasks: Iterable[str]):
    """A row of every subset gets the same answer beside the others as alone, where all streams that it lacks are absent wholly."""
    parts = {"left": [[1.0, 0.0]], "right": [[0.0, 1.0, 0.3]], "note": "number 3"}
    for task in tasks:
        rows = [{name: parts[name] for name in subset} for subset in SUBSETS if task != "pair" or subset != ("note",)]
        together, alone = (
            [p.output for p in found] for found in (run.predict(rows, task=task), [run.predict([r], task=task)[0] for r in rows])
        )
        assert len(together) == len(rows)
        if task == "pair":
            flat = [[value for vector in row.values() for value in vector] for rows in (together, alone) for row in rows]
            assert flat[: len(rows)] == [pytest.approx(row, abs=1e-4) for row in flat[len(rows) :]]
        else:
            assert together == (pytest.approx(alone, abs=1e-4) if task == "size" else alone)


@pytest.mark.parametrize(("fusion", "absent"), [("early", "learned"), ("cross_attention", "none")])
def test_batches_of_one_row_train_first_one_connector_then_all(data: Path, tmp_path: Path, fusion: str, absent: str):
    """Whole streams are absent, and in the first stage nothing that trains is there where a row has no `left`."""
    made = recipe(data, fusion, absent, GPT2, {name: TASKS[name] for name in ("label", "say")})
    made["encoders"] = {
        "left": {"connector": {**QUERIES, "reads": "text"}},
        "right": {"connector": {**QUERIES, "type": "perceiver_resampler"}},
    }
    made["stages"] = [
        {"name": "align", "steps": 14, "batch_size": 1, "learning_rate": 3e-3, "train": ["encoders.left.connector"]},
        {"name": "all", "steps": 14, "batch_size": 1, "accumulate": 2, "learning_rate": 3e-3},
    ]
    run = chiasm.train(made, output=tmp_path / "run", progress=False)
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert len(steps) == 28 and not any("skipped" in line for line in steps)
    still = [line["grad_norm"] == 0 for line in steps]
    assert not any(still[14:]) and any(still[:14]) and not all(still[:14])
    answers_alike(chiasm.load(run.folder), ("label", "say"))


def test_balance_with_any_subset(data: Path, tmp_path: Path):
    made = recipe(data, "cross_attention", "none", BERT, {name: TASKS[name] for name in ("label", "size")})
    made["stages"]["batch_size"], made["train"]["balance"] = 1, {"modulate": True}
    run = chiasm.train(made, output=tmp_path / "run", progress=False)
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    heads = {tuple(name for name in INPUTS if f"label[{'text' if name == 'note' else name} alone]" in line["losses"]) for line in steps}
    assert {("note",), ("left", "note"), ("right", "note"), INPUTS} == heads  # the prompt is always there
    assert all(math.isfinite(value) for line in steps for value in line["losses"].values())
    answers_alike(run, ("label", "size"))
