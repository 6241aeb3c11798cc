"""A tiny T5 with eyes learns to name colours in a few dozen steps: train, evaluate, answer, load by transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForMultimodalLM, AutoProcessor

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
from tiny_models import T5

import chiasm
from chiasm.types import RecipeError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
VIT = {"arch": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 8}
FUSIONS = {
    "decoder": {"type": "cross_attention", "weights": "backbone"},
    "encoder": {"type": "early"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    draw = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 24)):
        lines = []
        for i in range(count):
            name = list(COLOURS)[i % 4]
            pixels = np.clip(np.array(COLOURS[name]) + draw.normal(0, 15, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{split}{i}.png")
            lines.append(json.dumps({"image": f"{split}{i}.png", "question": "what colour is it ?", "answer": name}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def recipe(data: Path, side: str, fusion: dict[str, str]) -> dict[str, Any]:
    return {
        "name": "colours",
        "inputs": {"image": {"modality": "image", "size": 16}, "question": "text"},
        "encoders": {"image": VIT},
        "backbone": {**T5, "side": side},
        "fusion": fusion,
        "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 4}}},
        "data": {"train": str(data / "train.jsonl"), "test": str(data / "test.jsonl")},
        "stages": [{"steps": 60, "batch_size": 16, "learning_rate": 1e-2}],
        "train": {"precision": "fp32"},
    }


@pytest.fixture(scope="module", params=["decoder", pytest.param("encoder", marks=pytest.mark.slow)])
def run(request, data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    made = recipe(data, request.param, FUSIONS[request.param])
    return chiasm.train(made, output=tmp_path_factory.mktemp("runs") / request.param, progress=False)


@pytest.mark.parametrize("side", FUSIONS)
def test_a_picture_that_reaches_nothing_stops_the_run(data: Path, side: str, tmp_path: Path):
    with pytest.raises(RecipeError, match="none never brings 'image' to the backbone, and tasks.answer reads it"):
        chiasm.train(recipe(data, side, {"type": "none"}), output=tmp_path / "run", progress=False)


def test_it_learns_to_look(run: chiasm.Run):
    scores = run.metrics["test"]
    assert scores["answer.exact_match"] >= 0.9
    assert scores["answer.exact_match[image shuffled]"] <= 0.6
    assert scores["answer.exact_match[image missing]"] <= 0.5


def test_it_answers(run: chiasm.Run, data: Path):
    records = [json.loads(line) for line in (data / "test.jsonl").read_text("utf-8").splitlines()]
    answers = [run.answer(image=data / record["image"], question=record["question"]) for record in records[:8]]
    assert sum(a == record["answer"] for a, record in zip(answers, records, strict=False)) >= 7


def test_transformers_loads_it_with_equal_logits(run: chiasm.Run, data: Path):
    model = AutoModelForMultimodalLM.from_pretrained(run.folder / "model").eval()
    processor = AutoProcessor.from_pretrained(run.folder / "model")
    inputs = processor(text=["what colour is it ?"], images=[Image.open(data / "test0.png")])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, run.model(**inputs).logits)
        written = model.generate(**inputs, max_new_tokens=4)
    assert processor.decode_texts(written) == [run.answer(image=data / "test0.png", question="what colour is it ?")]
