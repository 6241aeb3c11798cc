"""A vision-language model fine-tuned with LoRA: train, evaluate with controls, ask, load by transformers, resume."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vlms import NAMES
from transformers import AutoModelForMultimodalLM, AutoProcessor, Idefics3Model

import chiasm
from chiasm.model import ChiasmForConditionalGeneration
from chiasm.training.feature_cache import cacheable_inputs
from chiasm.types import ChiasmError

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
others_slow = [pytest.param(name, marks=[] if name == "idefics3" else pytest.mark.slow) for name in NAMES]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pictures of three colours in several sizes; rows without a picture; one row whose text looks like a special token."""
    folder = tmp_path_factory.mktemp("colours")
    draws = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 9), ("test", 9)):
        lines = []
        for number in range(count):
            name = list(COLOURS)[number % 3]
            side = int(draws.integers(14, 30))
            Image.new("RGB", (side, side), COLOURS[name]).save(folder / f"{split}{number}.png")
            question = "what colour is the <image> ?" if number == 4 else "what colour is the square ?"
            lines.append({"image": f"{split}{number}.png", "question": question, "answer": name, "kind": "colour"})
        lines.append({"question": "one two three ?", "answer": "yes", "kind": "blind"})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def recipe(folder: Path, data: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "vlm",
        "inputs": {"image": "image", "question": "text"},
        "backbone": {"model": str(folder), "train": {"lora": {"rank": 4}}},
        "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 4}}},
        "data": {name: str(data / f"{name}.jsonl") for name in ("train", "validation", "test")},
        "stages": [{"steps": 4, "batch_size": 8, "learning_rate": 1e-2}],
        "train": {"precision": "fp32", "device": "cpu"},
        **changes,
    }


@pytest.fixture(scope="module")
def run(checkpoint, data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    return chiasm.train(recipe(checkpoint("idefics3"), data), output=tmp_path_factory.mktemp("runs") / "vlm", progress=False)


def test_only_adapters_of_the_language_model_train(run: chiasm.Run):
    adapters = {name for name, _ in run.model.named_parameters() if "lora_" in name}
    assert adapters and all("language_model.text_model." in name for name in adapters)
    assert any(parameter.abs().max() > 0 for name, parameter in run.model.named_parameters() if "lora_B" in name)


def test_controls_are_there_for_what_the_backbone_reads(run: chiasm.Run):
    scores = run.metrics["test"]
    for name in ("image", "question"):
        for control in ("shuffled", "missing"):
            assert f"answer.exact_match[{name} {control}]" in scores
    assert scores["answer.exact_match"] == pytest.approx(np.mean([p["output"] == p["target"] for p in predictions(run)]))


def predictions(run: chiasm.Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()]


def test_transformers_loads_it_without_the_original_checkpoint(run: chiasm.Run, data: Path, checkpoint, monkeypatch: pytest.MonkeyPatch):
    kept = checkpoint("idefics3").with_name("moved away")
    checkpoint("idefics3").rename(kept)
    try:
        model = AutoModelForMultimodalLM.from_pretrained(run.folder / "model").eval()
        processor = AutoProcessor.from_pretrained(run.folder / "model")
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what colour is the square ?"}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], images=[Image.open(data / "test0.png")], return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, run.model(**inputs).logits)
            written = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert (
            chiasm.load(run.folder).answer(image=data / "test0.png", question="what colour is the square ?")
            == (processor.decode_texts(written)[0])
        )
    finally:
        kept.rename(checkpoint("idefics3"))


def test_predict_and_ask_give_the_same_answers(run: chiasm.Run, data: Path, tmp_path: Path):
    done = chiasm.predict_file(run, data / "test.jsonl", tmp_path / "out.jsonl")
    assert (done.rows, done.refused, done.whole) == (10, {}, True)
    written = {row["id"]: row["output"] for row in map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines())}
    assert written == {row["id"]: row["output"] for row in predictions(run)}
    assert isinstance(run.answer(question="one two three ?"), str)
    assert isinstance(run.answer(image=[data / "test0.png", data / "test1.png"], question="which ?"), str)


def test_the_feature_cache_leaves_it_alone(run: chiasm.Run):
    assert cacheable_inputs(run.model, run.processor, ["image"]) == []


@pytest.mark.parametrize("name", others_slow)
def test_it_learns_and_goes_on_exactly_where_it_stopped(name: str, checkpoint, data: Path, tmp_path: Path):
    spec = recipe(checkpoint(name), data, stages=[{"steps": 6, "batch_size": 8, "learning_rate": 1e-2}])
    spec["train"] |= {"save_every": 3, "keep_last": 9}
    whole = chiasm.train(spec, output=tmp_path / "whole", progress=False)
    losses = [line["loss"] for line in map(json.loads, (whole.folder / "log.jsonl").read_text().splitlines()) if "loss" in line]
    assert losses[-1] < losses[0]
    copytree(tmp_path / "whole", tmp_path / "again")
    rmtree(tmp_path / "again" / "model")
    for path in (tmp_path / "again" / "checkpoints").iterdir():
        if not path.name.endswith("3"):
            rmtree(path)
    again = chiasm.train(spec, output=tmp_path / "again", resume=True, progress=False)
    for (key, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_picture_that_changes_nothing_is_an_error(checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Idefics3Model.get_image_features

    def blind(self: Any, pixel_values: torch.Tensor, *args: Any, **given: Any) -> Any:
        return real(self, torch.ones_like(pixel_values), *args, **given)

    monkeypatch.setattr(Idefics3Model, "get_image_features", blind)
    with pytest.raises(ChiasmError, match="input 'image' does not reach the output"):
        chiasm.train(recipe(checkpoint("idefics3"), data), output=tmp_path / "blind", progress=False)


def test_a_picture_that_is_lost_in_generation_is_an_error(checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The commonest silent failure: the loss sees the picture, and the answers that are written do not."""
    real = ChiasmForConditionalGeneration.generate

    def forgetful(self: Any, **given: Any) -> Any:
        given["pixel_values"] = torch.ones_like(given["pixel_values"])
        return real(self, **given)

    monkeypatch.setattr(ChiasmForConditionalGeneration, "generate", forgetful)
    with pytest.raises(ChiasmError, match="input 'image' .*`generate` loses it"):
        chiasm.train(recipe(checkpoint("idefics3"), data), output=tmp_path / "lost", progress=False)


def test_all_of_it_trains_where_the_recipe_says_so(checkpoint, data: Path, tmp_path: Path):
    """LLaVA's projector reads the last layer but one, so that the last one of its tower is not reached, and not trained."""
    before = AutoModelForMultimodalLM.from_pretrained(checkpoint("llava")).state_dict()
    spec = recipe(
        checkpoint("llava"),
        data,
        backbone={"model": str(checkpoint("llava")), "train": "all", "vision": "all"},
        tasks={"answer": {"type": "classify", "prompt": "{question}", "target": "answer"}},
        stages=[{"steps": 2, "batch_size": 8, "learning_rate": 1e-3}],
    )
    run = chiasm.train(spec, output=tmp_path / "all", progress=False)
    after = {f"model.{name}": value for name, value in run.model.model.language_model.state_dict().items()}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name][: len(value)] if value.ndim else before[name])}
    assert any("multi_modal_projector" in name for name in changed) and any(
        "vision_tower" in name and "layers.0" in name for name in changed
    )
    assert any("language_model" in name for name in changed) and not any("vision_tower" in name and "layers.1" in name for name in changed)
    assert run.answer(image=data / "test0.png", question="what colour is the square ?") in run.tasks["answer"].labels


def test_check_says_what_would_train(checkpoint, data: Path, tmp_path: Path):
    path = tmp_path / "vlm.yaml"
    path.write_text(chiasm.load_recipe(recipe(checkpoint("idefics3"), data)).to_yaml(), encoding="utf-8")
    found = chiasm.check(path)
    assert not found.problems
    assert any("backbone.vision: 0 of " in line for line in found.lines), found.lines
    assert any(line.startswith("train: 25 rows; of 25 opened, 0 bad, 0 for no task") for line in found.lines)


def test_balance_is_refused_for_what_the_backbone_reads(checkpoint, data: Path, tmp_path: Path):
    tasks = {"answer": {"type": "classify", "prompt": "{question}", "target": "answer"}}
    spec = recipe(checkpoint("idefics3"), data, tasks=tasks, train={"precision": "fp32", "device": "cpu", "balance": {}})
    with pytest.raises(ChiasmError, match=r"train\.balance: the backbone reads image itself"):
        chiasm.train(spec, output=tmp_path / "balance", progress=False)
