"""What a comparison measured, before any statistics: one Row per way of answering, one Cell per seed of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["majority", "unimodal", "ensemble", "trees", "fusion"]


@dataclass(slots=True)
class Cell:
    """One trained and evaluated model (or blind answerer). All lists have one entry per test item, in the order of Comparison.targets."""

    seed: int
    outputs: list[Any]  # the predicted label, number or text
    probabilities: list[dict[str, float]] | None = None  # label -> probability, where the task has them
    train_seconds: float = 0.0
    peak_memory: int = 0  # bytes, resident, of the process that trained it
    latency: dict[str, float] = field(default_factory=dict)  # p50 and p99 in milliseconds of one row at batch size 1
    controls: dict[str, list[Any]] = field(default_factory=dict)  # "image shuffled" | "image missing 0.25" -> outputs on `controlled` items
    coalitions: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """"image+text" (only these present; "" is none of them, and the longest key all) -> probabilities on `controlled` items."""
    additive: list[dict[str, float]] | None = None
    """EMAP's projection of the probabilities, what remains without any interaction of inputs, on the first len(additive) of `controlled`.

    Where the task predicts numbers, {"value": number} stands in the place of label -> probability, here and in `coalitions`.
    """


@dataclass(slots=True)
class Row:
    """One line of the table."""

    name: str  # e.g. "early", "image alone", "ensemble of unimodal", "trees on frozen embeddings", "majority"
    kind: Kind
    inputs: list[str]  # what it may look at
    cells: list[Cell]
    parameters: int | None = None  # all, and without the encoders that every row shares
    trainable: int | None = None
    macs: int | None = None  # multiply-accumulates of one row's forward pass, encoders excluded
    runs_on: dict[str, str] = field(default_factory=dict)  # "here" | "onnx" | "vllm" -> "yes", or why not
    note: str = ""


@dataclass(slots=True)
class Comparison:
    """Everything that `compare` measured; COMPARISON/comparison.json holds it with the statistics beside it."""

    recipe: dict[str, Any]
    command: str
    commit: str
    task: str
    metric: str  # a name of chiasm.metrics
    higher_is_better: bool
    split: str
    seeds: list[int]
    ids: list[str]  # the test items
    targets: list[Any]
    controlled: list[int]  # which items (places in `ids`) the controls were run on
    rows: list[Row]
    match: str | None = None  # "params" | "macs" | None
    trials: int = 1
    encoder_cache: dict[str, str] = field(default_factory=dict)  # input -> sha256 of its frozen features
    notes: list[str] = field(default_factory=list)  # rows that were left out and why, and what else a reader must know
    clusters: list[str] = field(default_factory=list)  # the picture, clip or group that each test item is of; empty: each its own

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Comparison:
        rows: list[dict[str, Any]] = [{**row, "cells": [Cell(**cell) for cell in row["cells"]]} for row in data["rows"]]
        given: dict[str, Any] = {**data, "rows": [Row(**row) for row in rows]}
        return cls(**given)
