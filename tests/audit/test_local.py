"""Audits of models on this machine whose truth is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vision_language"))
sys.path.insert(0, str(Path(__file__).parent))
import tiny_vlms
from coloured import rows_at

import chiasm
from chiasm.audit import engine
from chiasm.audit.rows import read
from chiasm.media.image import png_bytes
from chiasm.types import ChiasmError

RECIPE: dict[str, Any] = {
    "name": "coloured",
    "inputs": {"image": {"modality": "image", "size": 16}, "question": "text"},
    "encoders": {
        "image": {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic", "grid": 1},
    },
    "backbone": {"arch": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32, "tokenizer": "words"},
    "fusion": "early",
    "tasks": {"answer": {"type": "classify", "prompt": "{question}", "target": "answer", "metrics": ["accuracy"]}},
    "stages": [{"steps": 40, "batch_size": 32, "learning_rate": 1e-2}],
    "train": {"precision": "fp32"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("cut_off", "verdict"), [(False, "uses"), (True, "no measurable use")])
def test_a_run_that_learned_to_look_and_one_that_could_not(cut_off: bool, verdict: str, tmp_path: Path):
    """Equal architectures; for the second every training row had another row's picture."""
    train, test = rows_at(tmp_path, 200, shuffled=cut_off), rows_at(tmp_path, 120, seed=1)
    run = chiasm.train({**RECIPE, "data": {"train": str(train), "test": str(test)}}, output=tmp_path / "run", progress=False)
    found = chiasm.audit(run.folder, test)
    assert {one.input: one.verdict for one in found.verdicts} == {"image": verdict, "question": "no measurable use"}, found.lines()
    assert found.metric == "exact_match" and found.rows == 120
    print("\n".join(["", *found.lines()]))


def test_a_model_of_transformers_by_its_folder(tmp_path: Path):
    """The right answers are what it says itself, so that it is always right about its own picture."""
    folder = tiny_vlms.save("llava", tmp_path / "checkpoint")
    data = vlm_rows(tmp_path, 24)
    said = {one["id"]: one["output"] for one in chiasm.audit(folder, data, max_tokens=3).predictions if one["condition"] == "as it is"}
    own = with_answers(data, [said[f"rows.jsonl:{number + 1}"] for number in range(24)])
    found = chiasm.audit(folder, own, max_tokens=3, score="exact_match")
    scores = {one.condition: one.score for one in found.scores}
    assert scores["as it is"] == 1.0 and scores["image shuffled"] < 0.7
    assert {one.input: one.verdict for one in found.verdicts}["image"] == "uses"


def test_what_cannot_be_audited_is_said(tmp_path: Path):
    data = rows_at(tmp_path, 3)
    with pytest.raises(ChiasmError, match="score: 'exact' is not one of"):
        chiasm.audit("nothing", data, score="exact")
    (tmp_path / "text.jsonl").write_text('{"question": "a", "answer": "b"}\n', encoding="utf-8")
    with pytest.raises(ChiasmError, match="reads `image`, and the data have no such column"):
        chiasm.audit("nothing", tmp_path / "text.jsonl")
    (tmp_path / "none.jsonl").write_text('{"image": "a.png", "question": "a", "answer": null}\n', encoding="utf-8")
    with pytest.raises(ChiasmError, match="no row has an answer; its columns are image, question, answer; .*--answer COLUMN"):
        read(tmp_path / "none.jsonl", None, lambda sample: None)


def test_a_misspelt_run_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def asked(*given: Any, **named: Any) -> Any:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(engine, "whole_model", asked)
    monkeypatch.chdir(tmp_path)
    data, run = rows_at(tmp_path, 3), tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("", encoding="utf-8")
    (run / "log.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ChiasmError, match="runs/dmo: not a run folder .*; did you mean 'runs/demo'"):
        chiasm.audit("runs/dmo", data)
    with pytest.raises(ChiasmError, match="a/b/c: not a run folder .there is no such folder"):
        chiasm.audit("a/b/c", data)
    with pytest.raises(AssertionError, match="the Hub"):
        chiasm.audit("owner/name", data)


def vlm_rows(folder: Path, count: int) -> Path:
    lines = []
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png_bytes(tiny_vlms.picture(number)))
        lines.append({"image": f"{number}.png", "question": "what colour is the square ?", "answer": "?"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder / "rows.jsonl"


def with_answers(data: Path, answers: list[str]) -> Path:
    lines = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    path = data.parent / "own.jsonl"
    path.write_text("".join(json.dumps({**line, "answer": a}) + "\n" for line, a in zip(lines, answers, strict=True)), encoding="utf-8")
    return path
