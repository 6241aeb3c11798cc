"""A recipe of two small tables whose label needs both, its data, and a stand-in for statistics, page and table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.compare.engine import Reporting

BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RECIPE: dict[str, Any] = {
    "name": "pairs",
    "inputs": {"left": {"modality": "table", "columns": ["a", "b"]}, "right": {"modality": "table", "columns": ["c"]}},
    "encoders": {"table": {"width": 8}},
    "backbone": {"arch": "bert", "kind": "latent", "latents": 2, **BERT, **CALM},
    "tasks": {"pick": {"type": "classify", "target": "label", "metrics": ["accuracy"], "dropout": 0.0}},
    "stages": {"steps": 6, "batch_size": 16, "learning_rate": 1e-3},
    "train": {"precision": "fp32", "device": "cpu"},
}


def write_data(folder: Path, rows: int = 60) -> dict[str, str]:
    """Three splits of jsonl; the label says whether a and c have the same sign. A few rows lack the right side."""
    splits = {}
    for number, split in enumerate(("train", "validation", "test")):
        draws = np.random.default_rng(number).normal(size=(rows, 3)).round(3).tolist()
        records = []
        for i, (a, b, c) in enumerate(draws):
            record = {"a": a, "b": b, "c": c, "label": "same" if a * c > 0 else "other", "score": round(a + 2 * c, 3)}
            if i % 20 == 7:
                record.pop("c")
            records.append(record)
        splits[split] = str(folder / f"{split}.jsonl")
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return splits


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """The recipe with data in `folder`."""
    return {**RECIPE, "data": write_data(folder), **changes}


def summarise(comparison: Any) -> dict[str, Any]:
    """Accuracy of every cell; enough to see that a replay computes the same."""
    rows = {}
    for row in comparison.rows:
        right = [[o == t for o, t in zip(cell.outputs, comparison.targets, strict=True)] for cell in row.cells]
        rows[row.name] = [float(np.mean(cell)) for cell in right]
    return {"rows": rows, "verdict": "none", "drawn": float(np.random.default_rng(0).random())}


REPORT = Reporting(
    summarise,
    lambda summary, path: path.write_text(json.dumps(summary), encoding="utf-8"),
    lambda summary: [f"{name}: {figures}" for name, figures in summary["rows"].items()],
)
