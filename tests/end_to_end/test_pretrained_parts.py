"""Pretrained parts by path, trained for a few steps: what a recipe freezes keeps the checkpoint's bits, what it trains moves."""

from __future__ import annotations

import json
import shutil
import sys
import wave
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
from chiasm.model_files import load_model
from chiasm.recipe import load_recipe
from chiasm.training.loop import train
from chiasm.training.materials import assemble
from test_assemble import CHECKPOINTS, checkpoints  # noqa: F401  (a fixture)

LORA = {"lora": {"rank": 2}}
INNER = {"clip": lambda m: m.vision_model, "t5": lambda m: m, "bert": lambda m: m.base_model}
CASES = {  # encoders: input -> (checkpoint, train), backbone, its train, fusion
    "frozen vit, gpt2 with adapters": ({"image": ("vit", "none")}, "gpt2", LORA, "gated_cross_attention"),
    "last layer of clip, frozen wav2vec2 and llama": (
        {"image": ("clip", 1), "audio": ("wav2vec2", "none")},
        "llama",
        "none",
        "cross_attention",
    ),
    "frozen bert beside the last layer of qwen3": ({"caption": ("bert", "none")}, "qwen3", 1, "cross_attention"),
    "wav2vec2 with adapters, frozen t5": ({"audio": ("wav2vec2", LORA)}, "t5", "none", "cross_attention"),
    "clip with adapters, all of bert": ({"image": ("clip", LORA)}, "bert", "all", "late"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw, lines = np.random.default_rng(0), []
    for i in range(6):
        PIL.Image.fromarray(draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(draw.integers(-9000, 9000, 800, dtype=np.int16).tobytes())
        words = {"question": "is there a red cat ?", "caption": ["a blue dog", "a green house"][i % 2], "answer": ["yes", "no"][i % 2]}
        lines.append(json.dumps({"image": f"{i}.png", "audio": f"{i}.wav", **words}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def theirs(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's part, as transformers loads it."""
    whole = getattr(transformers, CHECKPOINTS[name][0]).from_pretrained(folder / name)
    inner = INNER.get(name, lambda m: m.base_model)(whole)
    return {key: value for key, value in inner.state_dict().items() if not key.startswith(("lm_head.", "pooler."))}


def check_part(ours: dict[str, torch.Tensor], given: dict[str, torch.Tensor], trains: object) -> None:
    """Frozen weights have the checkpoint's bits; of those that train, some have moved, and only those."""
    plain = {key.replace(".base_layer.", "."): value for key, value in ours.items() if "lora_" not in key}
    moved = {key for key in given if not torch.equal(plain[key], given[key])}
    if trains == "all":
        assert len(moved) > len(given) / 2
    elif trains == 1:
        numbers = {part for key in given for part in key.split(".") if part.isdigit()}
        assert moved and all(max(numbers) in key.split(".") for key in moved)
    else:
        assert not moved
    adapters = [value for key, value in ours.items() if "lora_B" in key]
    assert bool(adapters) == (trains == LORA) and (not adapters or any(bool(value.any()) for value in adapters))


@pytest.mark.parametrize("name", CASES)
def test_frozen_parts_keep_their_bits_and_the_others_move(checkpoints, data, tmp_path, name):  # noqa: F811
    streams, backbone, trains, fusion = CASES[name]
    shutil.copytree(checkpoints / backbone, tmp_path / backbone)
    if backbone == "t5":
        config = json.loads((tmp_path / "t5" / "config.json").read_text())
        (tmp_path / "t5" / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": 0}))
    task = (
        {"type": "classify", "target": "answer"}
        if backbone == "bert"
        else {"type": "generate", "prompt": "{question}", "target": "{answer}"}
    )
    recipe = {
        "inputs": {**{key: "text" if key == "caption" else key for key in streams}, "question": "text"},
        "encoders": {key: {"model": str(checkpoints / part), "train": most} for key, (part, most) in streams.items()},
        "backbone": {"model": str(tmp_path / backbone), "train": trains},
        "fusion": fusion,
        "tasks": {"answer": task},
        "data": {"train": str(data / "rows.jsonl"), "validation": str(data / "rows.jsonl")},
        "stages": [{"steps": 3, "batch_size": 3, "learning_rate": 1e-2}],
        "train": {"precision": "fp32", "device": "cpu"},
    }
    train(load_recipe(recipe), output=tmp_path / "run", resume=False, allow_changed=False, progress=False, build=assemble)
    model, _ = load_model(tmp_path / "run" / "model")
    for key, (part, most) in streams.items():
        check_part(model.model.encoders[key].network.state_dict(), theirs(checkpoints, part), most)
    check_part(model.model.language_model.state_dict(), theirs(checkpoints, backbone), trains)
