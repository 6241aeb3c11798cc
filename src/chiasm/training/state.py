"""Where a training stands: everything beside weights and optimizer that a resumed run must know, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chiasm.recipe import Recipe
from chiasm.types import RecipeError

SHAPE = ("inputs", "encoders", "backbone", "fusion", "tasks")  # keys that decide which weights there are
FREE = (
    *("name", "train.save_every", "train.keep_last", "train.num_workers", "train.device", "train.strategy", "train.evaluate_every"),
    "train.early_stopping",
)
MISSING = "(not given)"


@dataclass(slots=True)
class TrainState:
    """Position, best result and counters. Randomness needs no state: it is a function of (seed, step) and (seed, epoch, sample id)."""

    recipe: dict[str, Any]
    precision: str = ""  # fp32 or bf16, as chosen at the start; a resumed run keeps it
    threads: int = 1  # likewise: sums are split over threads
    processes: int = 1  # that trained it last
    stage: int = 0
    epoch: int = 0
    batch: int = 0  # micro-batches of this epoch that were trained on
    step: int = 0  # optimizer steps since the start, skipped ones included
    stage_step: int = 0
    seconds: float = 0.0  # wall time of this stage
    checked: bool = False  # whether the influence check of this stage was passed
    unreached: list[str] = field(default_factory=list)  # parameters that no task of this stage reaches
    evaluated: int = -1  # the step of the latest validation
    best: float | None = None
    best_step: int | None = None
    since_best: int = 0  # validations since then
    nonfinite_in_a_row: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    log_bytes: int = 0
    accounting: Any = None

    def next_stage(self) -> None:
        self.stage += 1
        self.epoch = self.batch = self.stage_step = self.since_best = 0
        self.seconds, self.checked, self.unreached = 0.0, False, []

    def count(self, name: str, times: int = 1) -> None:
        if times:
            self.counters[name] = self.counters.get(name, 0) + times

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def check_unchanged(saved: dict[str, Any], recipe: Recipe, *, allow_changed: bool) -> list[str]:
    """Compare a resumed run's recipe with the saved one; returns the differences as lines, RecipeError where they forbid going on."""
    changed = differences(saved, recipe.model_dump(mode="json", exclude_none=True))
    for key, line in changed.items():
        if key.split(".")[0] in SHAPE:
            raise RecipeError(f"cannot resume with another model; changed: {line}; undo it, or start anew in another --output")
    firm = [line for key, line in changed.items() if key not in FREE]
    if firm and not allow_changed:
        raise RecipeError(f"the recipe changed since this run began: {'; '.join(firm)}; undo it, or add --allow-changed")
    return list(changed.values())


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> `key: old -> new` for everything in which two recipes (as plain data) differ."""
    before, after = dict(_flat(old)), dict(_flat(new))
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key, MISSING) != after.get(key, MISSING)]
    return {key: f"{key}: {before.get(key, MISSING)} -> {after.get(key, MISSING)}" for key in changed}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings and lists of mappings as dotted keys."""
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        value = {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{path}.{key}" if path else str(key))
