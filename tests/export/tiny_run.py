"""A run folder as `chiasm train` makes it, in seconds: it sees, hears, reads and writes, and compares pictures with captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chiasm
from chiasm.data.scenes.export import export

SMALL = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "inputs": {
        "image": {"modality": "image", "size": 64},
        "audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 1.0},
        "question": "text",
    },
    "encoders": {"image": {**SMALL, "grid": 2}, "audio": {**SMALL, "tokens": 1}},
    "backbone": {"arch": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48, "tokenizer": "words"},
    "fusion": {"type": "early"},
    "tasks": {
        "answer": {"type": "generate", "prompt": "{question} answer :", "target": "{answer}", "generation": {"max_new_tokens": 3}},
        "align": {"type": "contrast", "between": ["image", "caption"], "weight": 0.2},
    },
    "stages": [{"name": "ask", "steps": 3, "batch_size": 8, "learning_rate": 3e-3}],
    "train": {"precision": "fp32"},
}


def tiny_run(folder: Path, **changes: Any) -> chiasm.Run:
    """Train on a few drawn pictures, and evaluate."""
    data = folder / "data"
    if not data.exists():
        export(data, scenes_per_split=4)
    splits = {name: str(data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return chiasm.train({**RECIPE, "data": splits, **changes}, output=folder / "run", progress=False)
