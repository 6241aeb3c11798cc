"""The figures of a run folder laid out for reading: per split and task one main figure with its controls, the rest in tables.

Reads what `chiasm.evaluation.result` wrote (metrics.json, evaluation.json); used by the web page and by the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.components import find, names

BASELINES = ("question only", "majority")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of metrics.json taken apart: "align.recall@1[image->caption, image shuffled]"."""

    task: str
    metric: str  # "recall@1"
    direction: str = ""  # "image->caption"
    group: str = ""  # "kind=spoken"
    control: str = ""  # "image shuffled", "question only"

    @property
    def title(self) -> str:
        """Metric and direction, for people: "recall@1 image → caption"."""
        return f"{self.metric} {self.direction.replace('->', ' → ')}".strip()


@dataclass(slots=True)
class Cell:
    """One figure: text to show, its place between 0 and 1 for a bar, and its interval or difference where known."""

    value: float | None
    interval: str = ""  # "[0.93, 0.96]"
    difference: str = ""  # "-0.75 [-0.78, -0.72]": control minus real, on the rows that have the input

    @property
    def text(self) -> str:
        return "\N{EN DASH}" if self.value is None else figure(self.value)


@dataclass(slots=True)
class Row:
    """A figure as it is, and under each control."""

    title: str
    real: Cell
    controls: dict[str, Cell] = field(default_factory=dict)
    scale: float = 1.0  # the value that a full bar stands for
    higher_is_better: bool = True


@dataclass(slots=True)
class TaskScores:
    """All of one task on one split: `main` is the figure that the verdicts are about."""

    task: str
    main: Row
    others: list[Row] = field(default_factory=list)
    groups: dict[str, list[Row]] = field(default_factory=dict)  # column -> a row per value
    verdicts: list[str] = field(default_factory=list)


def parse_key(key: str) -> Key:
    """Take a key apart; what is not a control, a baseline or a group is a direction."""
    head, _, inside = key.removesuffix("]").partition("[")
    task, _, metric = head.partition(".")
    found = {"direction": "", "group": "", "control": ""}
    for label in inside.split(", ") if inside else ():
        if label in BASELINES or label.endswith((" shuffled", " missing")):
            found["control"] = label
        else:
            found["group" if "=" in label else "direction"] = label
    return Key(task, metric, **found)


def split_scores(metrics: Mapping[str, float | None], details: Mapping[str, Any]) -> list[TaskScores]:
    """The scores of one split, tasks and metrics in the order they were written."""
    rows: dict[tuple[str, str, str, str], Row] = {}
    for text, value in metrics.items():
        key = parse_key(text)
        row = rows.setdefault((key.task, key.group, key.metric, key.direction), Row(key.title, Cell(None)))
        cell = Cell(value, _interval(details.get("intervals", {}).get(text)), _difference(details.get("differences", {}).get(text)))
        if key.control:
            row.controls[key.control] = cell
        else:
            row.real = cell
    found: dict[str, TaskScores] = {}
    for (task, group, metric, _), row in rows.items():
        row.higher_is_better = _higher_is_better(metric)
        row.scale = _scale(row)
        if not group:
            if task in found:
                found[task].others.append(row)
            else:
                found[task] = TaskScores(task, row, verdicts=_of_task(details.get("verdicts", ()), task))
        elif task in found and row.title == found[task].main.title:
            column, _, row.title = group.partition("=")
            found[task].groups.setdefault(column, []).append(row)
    return list(found.values())


def control_names(rows: Sequence[Row]) -> list[str]:
    """Every control that some row has, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.controls))


def figure(value: float, sign: str = "") -> str:
    """A figure in a table: three decimals, one for large ones."""
    return f"{value:{sign}.{1 if abs(value) >= 100 else 3}f}"


def _of_task(verdicts: Sequence[str], task: str) -> list[str]:
    return [v.removeprefix(f"{task}: ") for v in verdicts if v.startswith(f"{task}: ")]


def _interval(bounds: Sequence[float | None] | None) -> str:
    known = [figure(bound) for bound in bounds or () if bound is not None]
    return f"[{', '.join(known)}]" if len(known) == 2 else ""


def _difference(found: Mapping[str, Any] | None) -> str:
    if not found or None in found["interval"] or found["difference"] is None:
        return ""
    low, high = found["interval"]
    return f"{figure(found['difference'], '+')} [{figure(low, '+')}, {figure(high, '+')}]"


def _higher_is_better(metric: str) -> bool:
    name = metric.partition("@")[0]
    return find("metric", name).higher_is_better if name in names("metric") else True


def _scale(row: Row) -> float:
    values = [abs(c.value) for c in (row.real, *row.controls.values()) if c.value is not None]
    return max([1.0, *values]) if row.higher_is_better else max([*values, 1e-12])
