"""The scores of an evaluation as plain text for a terminal, also a narrow one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from chiasm.report.scores import Row, TaskScores, control_names, split_scores

NARROW = 72  # columns below which a table is turned on its side


def print_scores(
    metrics: Mapping[str, float | None], details: Mapping[str, Any] | None = None, *, title: str = "", console: Console | None = None
) -> None:
    """Print the scores of one split: `metrics` as in metrics.json, `details` as in evaluation.json (intervals, verdicts)."""
    console = console or Console(highlight=False)
    for task in split_scores(metrics, details or {}):
        console.print(Text(" ".join(part for part in (title, task.task) if part), style="bold"))
        _print_main(task, console)
        for column, rows in task.groups.items():
            _print_rows(rows, column, console)
        if task.others:
            _print_rows(task.others, "figure", console)
        for verdict in task.verdicts:
            console.print(Padding(Text(verdict.replace("`", "")), (0, 0, 0, 2)))
        console.print()


def _print_main(task: TaskScores, console: Console) -> None:
    narrow = console.width < NARROW
    table = score_table(task.main.title, "value", *([] if narrow else ["95 % interval or change"]))
    cells = {"as it is": task.main.real, **task.main.controls}
    for name, cell in cells.items():
        more = cell.interval if name == "as it is" else cell.difference
        table.add_row(name, Text(cell.text, style="bold" if name == "as it is" else ""), *([] if narrow else [more]))
    console.print(Padding(table, (0, 0, 0, 2)))


def _print_rows(rows: list[Row], first: str, console: Console) -> None:
    """A row per figure; where the controls do not fit, only the figure as it is."""
    controls = control_names(rows)
    width = max(len(row.title) for row in rows) + sum(max(len(c), 6) + 2 for c in controls) + 14
    if width > console.width:
        controls = [c for c in controls if c.endswith("shuffled")] if width < 2 * console.width and console.width >= NARROW else []
    table = score_table(first, "as it is", *controls)
    for row in rows:
        table.add_row(row.title, row.real.text, *(row.controls[c].text if c in row.controls else "" for c in controls))
    console.print(Padding(table, (0, 0, 0, 2)))


def score_table(first: str, *others: str) -> Table:
    """An empty table: the first column to the left, the others (figures) to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table
