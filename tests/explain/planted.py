"""Runs whose reasons are known: the answer was planted in two places of the inputs, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import chiasm
from chiasm.assemble import build
from chiasm.data.collate import Collator
from chiasm.model_files import save_model
from chiasm.recipe import load_recipe
from chiasm.training.precision import Precision
from chiasm.training.step import Stepper
from chiasm.types import Sample

CARDS, SLOTS, CLASSES = 4, 3, 6
BATCH, RATE, WARMUP = 64, 4e-3, 40
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


def both_row(draws: np.random.Generator) -> dict[str, Any]:
    """The same shapes: one of the cards and one of `ask`'s vectors hold a bit, the other cards a mark that says nothing; the answer is
    both bits. Easier to learn, and where things stand does not matter, which fusions that pool an input cannot know."""
    place, slot, one, other = (int(draws.integers(high)) for high in (CARDS, SLOTS, 2, 2))
    cards = draws.integers(2, CLASSES, CARDS)
    cards[place] = one
    ask = np.zeros((SLOTS, CARDS))
    ask[slot, other] = 1.0
    return {"cards": np.eye(CLASSES)[cards].tolist(), "ask": ask.tolist(), "label": f"c{2 * one + other}", "place": place, "slot": slot}


def with_gaps(rows: list[dict[str, Any]], inputs: list[str], rate: float) -> list[dict[str, Any]]:
    """The rows with some vectors replaced by the mean one, as modality dropout does with whole inputs. A vector that is taken away is then
    nothing new, so that a map is judged, and not what a model makes of what it has never seen."""
    draws, made = np.random.default_rng(0), [dict(row) for row in rows]
    for name in inputs:
        every = np.array([row[name] for row in rows])  # [rows, vectors, width]
        gaps = np.where(draws.random((*every.shape[:2], 1)) < rate, every.mean((0, 1)), every)
        for row, own in zip(made, gaps.tolist(), strict=True):
            row[name] = own
    return made


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


def trained(folder: Path, recipe: dict[str, Any], rows: list[dict[str, Any]], *, steps: int) -> chiasm.Run:
    """A run that learned the rows."""
    run = untrained(folder, recipe, rows)
    model, split = run.model, run.split("train")
    opened = split.open_rows(range(len(split)))
    collator = Collator(list(model.tasks.values()), run.processor, modality_dropout=run.recipe.train.modality_dropout)
    batches = [collator(opened[start : start + BATCH], dropout=True) for start in range(0, len(opened), BATCH)]
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.01)
    stepper = Stepper(model, model.tasks, {"answer": 1.0}, optimizer, precision=Precision("fp32", "cpu", ""), seed=0, clip=1.0)
    model.train()
    for step in range(steps):
        rate = RATE * min((step + 1) / WARMUP, 0.5 + 0.5 * np.cos(np.pi * step / steps))
        stepper([batches[step % len(batches)]], step=step, learning_rate=rate)
    model.eval()
    return run
