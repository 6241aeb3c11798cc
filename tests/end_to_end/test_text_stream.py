"""A small run with two texts: the backbone reads the question, an encoder reads the caption, and the answer stands in the caption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chiasm
from chiasm.types import ChiasmError

COLOURS = ("red", "blue", "green", "grey")
BERT = {"arch": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
RECIPE = {
    "name": "texts",
    "inputs": {"caption": {"modality": "text", "tokenizer": "words", "max_tokens": 16}, "question": "text"},
    "encoders": {"caption": BERT},
    "backbone": {"arch": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, "tokenizer": "words"},
    "fusion": "cross_attention",
    "tasks": {"answer": {"type": "generate", "prompt": "{caption} {question} answer :", "target": "{answer}"}},
    "stages": {"steps": 60, "batch_size": 48, "learning_rate": 5e-3},
    "train": {"precision": "fp32"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    things, places = ("cat", "dog", "bird"), ("house", "tree")
    rows = [
        {"caption": f"a {colour} {thing} near the {place}", "question": f"what colour is the {thing} ?", "answer": colour}
        for colour in COLOURS
        for thing in things
        for place in places
    ]
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows * 2)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    splits = {name: str(data / f"{name}.jsonl") for name in ("train", "test")}
    return chiasm.train({**RECIPE, "data": splits}, output=tmp_path_factory.mktemp("runs") / "texts", progress=False)


def test_the_caption_is_used_and_has_its_controls(run: chiasm.Run):
    scores = run.metrics["test"]
    assert scores["answer.exact_match"] > 0.9
    for control in ("shuffled", "missing"):
        assert scores[f"answer.exact_match[caption {control}]"] < 0.6
        assert f"answer.exact_match[question {control}]" in scores


def test_it_is_asked_by_the_inputs_names(run: chiasm.Run):
    for colour in COLOURS:
        assert run.answer(caption=f"a {colour} dog near the tree", question="what colour is the dog ?") == colour
    again = chiasm.load(run.folder)
    assert again.recipe.inputs["caption"].modality == "tokens" and again.recipe == run.recipe
    assert again.answer(caption="a grey cat near the house", question="what colour is the cat ?") == "grey"
    assert isinstance(run.answer(question="what colour is the cat ?"), str)  # without the caption
    with pytest.raises(ChiasmError, match="capton"):
        run.answer(capton="a grey cat", question="what colour is the cat ?")
    with pytest.raises(ChiasmError, match="caption: expected text, found int"):
        run.answer(caption=3, question="what colour is the cat ?")


def test_predict_gives_the_same_answers_as_evaluate(run: chiasm.Run, data: Path, tmp_path: Path):
    done = chiasm.predict_file(run, data / "test.jsonl", tmp_path / "out.jsonl")
    assert (done.rows, done.refused, done.whole) == (48, {}, True)
    predicted, evaluated = (
        {row["id"]: row["output"] for row in map(json.loads, file.read_text("utf-8").splitlines())}
        for file in (tmp_path / "out.jsonl", run.folder / "predictions" / "test.jsonl")
    )
    assert predicted == evaluated


def test_a_frozen_text_encoders_features_are_cached(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    recipe = {**RECIPE, "encoders": {"text": {**BERT, "train": "none"}}}
    recipe["inputs"] = {"caption": "text", "vector": "features"}
    rows = [{**json.loads(line), "vector": [float(n % 3), 1.0]} for n, line in enumerate((data / "train.jsonl").read_text().splitlines())]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe |= {"stages": {"epochs": 2, "batch_size": 16}, "data": {"train": str(tmp_path / "train.jsonl")}}
    recipe["tasks"] = {"answer": {"type": "generate", "prompt": "colour :", "target": "{answer}"}}
    run = chiasm.train(recipe, output=tmp_path / "run", progress=False)
    assert [folder.name.split("-")[0] for folder in (tmp_path / "cache").iterdir()] == ["caption"]
    assert run.answer(caption="a red cat", vector=[0.0, 1.0]) is not None
