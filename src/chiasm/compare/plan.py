"""What a comparison will do, known before anything is spent: its rows with their recipes, what they cost, the test items, the time.

COMPARISON/plan.json keeps it, so that the same command goes on after a stop and a changed one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from chiasm.compare.blind import Answers
from chiasm.compare.items import Items
from chiasm.compare.recipes import Data
from chiasm.compare.result import Kind
from chiasm.data.randomness import generator
from chiasm.evaluation.result import plain, read_json, write_text
from chiasm.training.state import FREE, differences
from chiasm.types import RecipeError

SPREAD = 0.5  # decades on either side of the recipe's learning rate from which --trials draws
TRAINED = ("fusion", "unimodal")  # kinds of rows that are networks of their own


@dataclass(slots=True)
class PlannedRow:
    """One line of the table to be. `recipe`: of a row that is trained; its seed and learning rate are set per cell."""

    name: str
    kind: Kind
    inputs: list[str]
    recipe: Data | None = None
    parameters: int | None = None
    trainable: int | None = None
    macs: int | None = None
    note: str = ""
    runs_on: dict[str, str] = field(default_factory=lambda: {"here": "yes"})


@dataclass(slots=True)
class Plan:
    """`request`: what was asked for. `selection`: the split that choices are made on (the best single input, learning rates)."""

    request: dict[str, Any]
    name: str
    task: str
    answers: Answers
    metric: str
    higher_is_better: bool
    selection: str
    precision: str
    seeds: list[int]
    items: Items
    rows: list[PlannedRow]
    notes: list[str] = field(default_factory=list)
    encoder_cache: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # measured: of training one cell, of measuring one of each kind

    @property
    def trained(self) -> list[PlannedRow]:
        """The rows that are networks of their own, in order."""
        return [row for row in self.rows if row.kind in TRAINED]

    @property
    def trials(self) -> int:
        return self.request["trials"]

    def row(self, name: str) -> PlannedRow:
        return next(row for row in self.rows if row.name == name)

    def save(self, folder: Path) -> None:
        write_text(folder / "plan.json", json.dumps(plain(asdict(self)), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """The plan of a comparison that was begun, else None."""
        if not (folder / "plan.json").is_file():
            return None
        data = read_json(folder / "plan.json")
        if data.keys() != {field.name for field in fields(cls)}:
            raise RecipeError(f"{folder} was begun by another version of Chiasm; choose another --output")
        given: dict[str, Any] = {**data, "rows": [PlannedRow(**row) for row in data["rows"]], "items": Items(**data["items"])}
        return cls(**given)


def request_of(
    recipe: Data, fusions: Sequence[Mapping[str, Any]] | None, vary: Sequence[str], *, task: str | None, match: str | None, trials: int
) -> dict[str, Any]:
    """What decides about the cells, as plain data. fusions None: the default ones."""
    return plain({"recipe": recipe, "fusions": fusions, "vary": list(vary), "task": task, "match": match, "trials": trials})


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """RecipeError where a comparison that was begun cannot go on as asked; more or fewer fusions are fine unless widths depend on them."""
    changed = [line for key, line in differences(before["recipe"], now["recipe"]).items() if key not in FREE]
    if changed:
        raise RecipeError(f"{folder} compares another recipe ({'; '.join(changed)}); undo it, or choose another --output")
    keys = ["task", "match", "trials", *(["fusions", "vary"] if now["match"] else [])]
    for key in keys:
        if before[key] != now[key]:
            old, new = (value[key] if key != "fusions" else [f["name"] for f in value[key] or ()] for value in (before, now))
            raise RecipeError(f"{folder} was begun with {key} {old}, not {new}; undo it, or choose another --output")


def rates(count: int) -> list[float]:
    """Factors of the learning rate for --trials: 1 first, then log-uniform within half a decade on either side; the same for every row."""
    drawn = generator("compare trials").uniform(-SPREAD, SPREAD, max(0, count - 1))
    return [1.0, *(float(f"{10**exponent:.3g}") for exponent in drawn)]
