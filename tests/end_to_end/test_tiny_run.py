"""The main job end to end on a tiny recipe: train, evaluate, ask, predict, load by transformers; all from one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

import chiasm
from chiasm.data.scenes.export import export
from chiasm.types import ChiasmError

RECIPE = {
    "name": "tiny",
    "inputs": {
        "image": {"modality": "image", "size": 64},
        "audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 1.0},
        "question": "text",
    },
    "encoders": {
        "image": {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "grid": 2},
        "audio": {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "tokens": 1},
    },
    "backbone": {"arch": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48, "tokenizer": "words"},
    "fusion": {
        "type": "hybrid",
        "parts": [{"type": "cross_attention", "inputs": ["image"]}, {"type": "early", "inputs": ["audio"], "positions": "none"}],
    },
    "tasks": {
        "answer": {"type": "generate", "prompt": "{audio} {question} answer :", "target": "{answer}", "generation": {"max_new_tokens": 3}},
        "caption": {"type": "generate", "prompt": "caption :", "target": "{caption}", "generation": {"max_new_tokens": 12}},
        "align": {"type": "contrast", "between": ["image", "caption"], "weight": 0.2},
    },
    "stages": [{"name": "ask", "steps": 6, "batch_size": 32, "learning_rate": 3e-3}],
    "train": {"precision": "fp32"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    export(folder, scenes_per_split=8)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    splits = {name: str(data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    recipe = {**RECIPE, "data": {**splits, "splits": {"test_new_pairs": str(data / "test_new_pairs.jsonl")}}}
    return chiasm.train(recipe, output=tmp_path_factory.mktemp("runs") / "tiny", progress=False)


def records(data: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (data / f"{split}.jsonl").read_text("utf-8").splitlines()]


def test_the_run_folder_holds_what_is_promised(run: chiasm.Run):
    for name in ("recipe.yaml", "metrics.json", "data.json", "quarantine.jsonl", "log.jsonl", "report.html", "model/config.json"):
        assert (run.folder / name).is_file(), name
    counts = json.loads((run.folder / "data.json").read_text())["train"]
    assert counts["read"] == counts["used"] + counts["quarantined"] + counts["filtered"] > 0


def test_every_input_has_its_controls(run: chiasm.Run):
    scores = run.metrics["test"]
    for name in ("image", "audio", "question"):
        for control in ("shuffled", "missing"):
            assert 0 <= scores[f"answer.exact_match[{name} {control}]"] <= 1
    assert "answer.exact_match[kind=spoken]" in scores
    assert "align.recall@1[image->caption]" in scores
    assert "test_new_pairs" in run.metrics


def test_answer_takes_a_picture_file_and_a_spoken_question(run: chiasm.Run, data: Path):
    spoken = next(r for r in records(data, "test") if r.get("kind") == "spoken")
    answer = run.answer(image=data / spoken["image"], audio=data / spoken["audio"], question=spoken["question"])
    assert isinstance(answer, str)
    with pytest.raises(ChiasmError, match="questoin"):
        run.answer(image=data / spoken["image"], questoin="what is it ?")
    with pytest.raises(ChiasmError, match=f"image: '{data}/nowhere.png' was not found"):
        run.answer(image=data / "nowhere.png", question="what is it ?")


def test_predict_gives_the_same_answers_as_evaluate(run: chiasm.Run, data: Path, tmp_path: Path):
    done = chiasm.predict_file(run, data / "test.jsonl", tmp_path / "out.jsonl")
    predicted = {row["id"]: row["output"] for row in map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines())}
    written = (run.folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()
    evaluated = {row["id"]: row["output"] for row in map(json.loads, written)}
    assert (done.rows, done.refused, done.whole) == (len(records(data, "test")), {}, True)
    assert predicted == evaluated


def test_transformers_loads_it_with_equal_logits(run: chiasm.Run, data: Path):
    from PIL import Image

    model = AutoModelForMultimodalLM.from_pretrained(run.folder / "model").eval()
    processor = AutoProcessor.from_pretrained(run.folder / "model")
    picture = Image.open(data / records(data, "test")[0]["image"])
    inputs = processor(text=["what is in the top left ? answer :"], images=[picture], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, run.model(**inputs).logits)
        written = model.generate(**inputs, max_new_tokens=3)
    assert written.shape[1] > inputs["input_ids"].shape[1]


def test_a_wrong_split_names_the_nearest(run: chiasm.Run):
    with pytest.raises(ChiasmError, match="did you mean 'test'"):
        run.evaluate("tset")


def test_load_refuses_what_is_no_run(tmp_path: Path):
    with pytest.raises(ChiasmError, match=r"no recipe\.yaml"):
        chiasm.load(tmp_path)
