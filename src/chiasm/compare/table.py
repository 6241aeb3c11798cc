"""A comparison as plain text for a terminal, also a narrow one."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from chiasm.compare.charts import by_score, inputs
from chiasm.compare.figures import NOTHING, Unit, count, milliseconds, p_text, seconds
from chiasm.compare.verdict import verdict
from chiasm.report.console import NARROW, score_table

WIDE = 120  # columns from which the costs are shown as well


def lines(summary: Mapping[str, Any], *, width: int | None = None) -> list[str]:
    """The table and the verdict, for a terminal of `width` columns (the real one's, if not given)."""
    text = io.StringIO()
    columns = width or shutil.get_terminal_size((100, 24)).columns
    print_comparison(summary, Console(file=text, width=columns, force_terminal=sys.stdout.isatty(), highlight=False))
    return text.getvalue().splitlines()


def print_comparison(summary: Mapping[str, Any], console: Console) -> None:
    """Print the rows, best first, then the verdict and its sentences."""
    unit, said = Unit.of(summary), verdict(summary)
    title = f"{summary['task']}: {summary['metric']} on {summary['items']:,} items of {summary['split']}"
    console.print(Text(title + ("" if summary["higher_is_better"] else ", lower is better"), style="bold"))
    console.print(Padding(_table(summary, unit, console.width), (0, 0, 0, 2)))
    if len(summary["top"]) > 1:
        console.print(Padding(Text("* not distinguishable from the highest score", style="dim"), (0, 0, 0, 2)))
    console.print()
    console.print(Text(said.line.replace("`", ""), style="bold"))
    for sentence in [*said.sentences, *summary["notes"]]:
        console.print(Padding(Text(sentence.replace("`", "")), (0, 0, 0, 2)))


def _table(summary: Mapping[str, Any], unit: Unit, width: int) -> Any:
    rows = [*by_score(summary), *(row for row in summary["rows"] if row["score"] is None)]
    columns: dict[str, list[str]] = {summary["metric"]: [unit.score(row["score"]) + (" *" if row["in_top"] else "  ") for row in rows]}
    if width >= NARROW:
        columns["95 % interval"] = [unit.interval(row["interval"]) for row in rows]
        columns["to reference"] = [_against(row, unit, row["name"] == summary["reference"]) for row in rows]
        for name in inputs(summary):
            found = [row["controls"].get(f"{name} shuffled") for row in rows]
            if any(found):
                columns[f"{name} shuffled"] = ["" if c is None else unit.score(c["difference"], sign=True) for c in found]
    if width >= WIDE:
        columns["interaction"] = ["" if row["interaction"] is None else unit.score(row["interaction"]["value"], sign=True) for row in rows]
        costs = {"parameters": count, "macs": count, "train_seconds": seconds, "p50": milliseconds}
        for (name, text), title in zip(costs.items(), ("parameters", "MACs", "training", "p50, ms"), strict=True):
            columns[title] = [text(row["cost"][name]) for row in rows]
    columns = {title: cells for title, cells in columns.items() if any(cell.strip() not in ("", NOTHING) for cell in cells)}
    table = score_table("row", *columns)
    for row, *cells in zip(rows, *columns.values(), strict=True):
        table.add_row(Text(row["name"], style="bold" if row["in_top"] else ""), *cells)
    return table


def _against(row: Mapping[str, Any], unit: Unit, is_reference: bool) -> str:
    found = row["against_reference"]
    if found is None:
        return "reference" if is_reference else ""
    p = p_text(found["p_holm"]) if found["p_holm"] is not None else ""
    return f"{unit.score(found['difference'], sign=True)} {p:>6}"
