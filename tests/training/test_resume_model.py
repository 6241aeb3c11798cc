"""TR1 on the real model: pictures with augmentation, questions, two tasks, workers; killed and resumed, bit for bit."""

import hashlib
import json
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import ended, forked, losses

from chiasm.recipe import load_recipe
from chiasm.training.loop import train

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


@pytest.fixture
def data(tmp_path):
    draw = np.random.default_rng(0)
    for split, count in (("train", 40), ("validation", 8)):
        rows = []
        for number in range(count):
            name = list(COLOURS)[number % 3]
            pixels = np.clip(np.array(COLOURS[name]) + draw.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / f"{split}{number}.png")
            base = {"image": f"{split}{number}.png", "caption": f"a {name} picture"}
            rows += [
                {**base, "question": "what colour ?", "answer": name},
                {**base, "question": "is it red ?", "answer": str(name == "red")},
            ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train3.png").write_bytes(b"broken")
    return tmp_path


def recipe(data, workers=0):
    encoder = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "grid": 2}
    return load_recipe(
        {
            "inputs": {
                "image": {"modality": "image", "size": 16, "augment": {"flip": True, "crop": 0.8, "jitter": 0.2}},
                "question": "text",
            },
            "encoders": {"image": encoder},
            "backbone": {"arch": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "tokenizer": "words"},
            "fusion": {"type": "cross_attention"},
            "tasks": {
                "align": {"type": "contrast", "between": ["image", "caption"], "weight": 0.2},
                "answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 3}},
            },
            "data": {"train": str(data / "train.jsonl"), "validation": str(data / "validation.jsonl")},
            "stages": [
                {"name": "align", "steps": 6, "tasks": ["align"], "batch_size": 16, "learning_rate": 1e-3},
                {"name": "answer", "epochs": 2, "batch_size": 8, "accumulate": 2, "learning_rate": 3e-3},
            ],
            "train": {
                "device": "cpu",
                "precision": "fp32",
                "save_every": 2,
                "evaluate_every": 7,
                "num_workers": workers,
                "modality_dropout": 0.1,
                "best": "validation answer.exact_match",
            },
        }
    )


def final(run):
    files = ("model/model.safetensors", "data.json", "quarantine.jsonl")
    return losses(run) | {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in files}


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_runs_end_like_the_one_that_was_not(data, kills):
    whole, draw = data / "whole", random.Random(1)
    begun = time.monotonic()
    assert ended(forked(lambda: train(recipe(data), output=whole, progress=False))) == 0
    seconds, died, number = time.monotonic() - begun, 0, 0
    while True:
        run = data / f"broken{number}"
        resume = (run / "checkpoints").exists()
        child = forked(
            lambda run=run, resume=resume, workers=died % 3: train(recipe(data, workers), output=run, resume=resume, progress=False)
        )
        code = ended(child, draw.uniform(0.3, 0.9) * seconds if died < kills else None)
        assert code in (0, -signal.SIGKILL)
        died += code != 0
        if code == 0:
            assert final(run) == final(whole)
            number += 1
            if died >= kills:
                break
