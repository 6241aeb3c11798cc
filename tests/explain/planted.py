"""Runs whose reasons are known: the answer was planted in two places of the inputs, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import chiasm
from chiasm.assemble import build
from chiasm.model_files import save_model
from chiasm.recipe import load_recipe
from chiasm.types import Sample

CARDS, SLOTS, CLASSES = 4, 3, 6
LATENT = {
    "kind": "latent",
    "arch": "bert",
    "latents": 1,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def match_row(draws: np.random.Generator) -> dict[str, Any]:
    """`cards` holds four different classes, one of `ask`'s three vectors names a place: the answer is the class that is there."""
    classes, place, slot = draws.permutation(CLASSES)[:CARDS], int(draws.integers(CARDS)), int(draws.integers(SLOTS))
    ask = np.zeros((SLOTS, CARDS))
    ask[slot, place] = 1.0
    return {"cards": np.eye(CLASSES)[classes].tolist(), "ask": ask.tolist(), "label": f"c{classes[place]}", "place": place, "slot": slot}


def two_bits(draws: np.random.Generator, rule: str) -> dict[str, Any]:
    """Two inputs of one bit each; `xor`: the answer needs both, `same`: each tells all."""
    a = int(draws.integers(2))
    b = int(draws.integers(2)) if rule == "xor" else a
    return {"a": np.eye(2)[a].tolist(), "b": np.eye(2)[b].tolist(), "label": "yes" if (a ^ b if rule == "xor" else a) else "no"}


def features_recipe(rows: list[dict[str, Any]], inputs: list[str]) -> dict[str, Any]:
    return {
        "name": "planted",
        "inputs": {name: {"modality": "features", "normalise": False} for name in inputs},
        "encoders": {name: {"type": "features", "tokens": len(np.atleast_2d(rows[0][name])), "connector": "mlp"} for name in inputs},
        "backbone": LATENT,
        "fusion": "early",
        "tasks": {"answer": {"type": "classify", "target": "label", "metrics": ["accuracy"], "dropout": 0.0}},
        "stages": [{"steps": 150, "batch_size": 64, "learning_rate": 4e-3}],
        "train": {"precision": "fp32"},
    }


def untrained(folder: Path, recipe: dict[str, Any], rows: list[dict[str, Any]]) -> chiasm.Run:
    """A run folder of a model as it is built, in a moment; its data are the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = load_recipe({"train": {"precision": "fp32"}, **recipe, "data": {"train": str(folder / "train.jsonl")}})
    texts = [value for row in rows for value in row.values() if isinstance(value, str)]
    model, processor = build(spec, [Sample(str(i), row, root=str(folder)) for i, row in enumerate(rows)], texts)
    save_model(model.eval(), processor, folder / "model")
    (folder / "recipe.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    return chiasm.load(folder)


def trained(folder: Path, rows: list[dict[str, Any]], inputs: list[str], **changes: Any) -> chiasm.Run:
    """A run on jsonl rows of features, one `classify` task."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, chosen in {"train": rows[:-64], "test": rows[-64:]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    data = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    return chiasm.train({**features_recipe(rows, inputs), "data": data, **changes}, output=folder / "run", progress=False)
