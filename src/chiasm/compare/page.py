"""COMPARISON/comparison.html: the verdict, the table and the drawings on one self-contained page. No script, nothing from outside.

The page is `comparison.html.j2`; this file only gathers what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.compare import charts
from chiasm.compare.figures import NOTHING, Unit, count, memory, milliseconds, p_text, percent, seconds
from chiasm.compare.verdict import verdict
from chiasm.evaluation.result import write_text
from chiasm.recipe_yaml import dump
from chiasm.report.html import page_template

Summary = Mapping[str, Any]
KINDS = {"majority": "no input", "unimodal": "one input", "ensemble": "ensemble", "trees": "trees", "fusion": "fusion"}


def write_page(summary: Summary, path: str | Path) -> Path:
    """Write the page of a summary to `path` and return it."""
    path = Path(path)
    write_text(path, render(summary))
    return path


def render(summary: Summary) -> str:
    """The page as text."""
    rows = [_row(summary, row) for row in charts.by_score(summary)]
    rows += [_row(summary, row) for row in summary["rows"] if row["score"] is None]
    named = charts.inputs(summary)
    return page_template("comparison.html.j2", "chiasm.compare").render(
        name=str(summary["recipe"].get("name") or summary["task"]),
        summary=summary,
        verdict=verdict(summary),
        facts=_facts(summary),
        rows=rows,
        columns=_columns(rows),
        remarks=[(row["name"], row["note"]) for row in summary["rows"] if row["note"]],
        shuffled=[name for name in named if any(row["shuffled"].get(name) for row in rows)],
        colours=[(number % charts.COLOURS, name) for number, name in enumerate(named)],
        scores=charts.scores(summary) if any(row["score"] is not None for row in summary["rows"]) else "",
        curves=charts.curves(summary),
        shares=charts.shares(summary),
        costs=charts.costs(summary),
        protocol=_protocol(summary),
        recipe=dump(summary["recipe"]) if summary["recipe"] else "",
    )


def _facts(summary: Summary) -> dict[str, str]:
    unit, number = Unit.of(summary), len(summary["seeds"])
    found = {
        "Task": summary["task"],
        "Metric": summary["metric"] + ("" if summary["higher_is_better"] else " (lower is better)"),
        "Test items": f"{summary['items']:,} of {summary['split']}",
        "Seeds": f"{number} (screening)" if summary["screening"] else str(number),
    }
    if summary["item_half_width"] is not None:
        found["One model, by the items"] = f"±{unit.score(summary['item_half_width'])}{unit.name}"
    if summary["detectable"] is not None:
        found["Seeds can show"] = f"{unit.score(summary['detectable'])}{unit.name} or more"
    if summary["item_detectable"] is not None and summary["item_detectable"] > (summary["detectable"] or 0.0):
        found["Items can show"] = f"{unit.score(summary['item_detectable'])}{unit.name} or more"
    return found


def _row(summary: Summary, row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of one line of the table: (figure, what stands below it in small)."""
    unit, cost, against = Unit.of(summary), row["cost"], row["against_reference"]
    interaction, shares = row["interaction"], row["shares"]
    p = "" if against is None else p_text(against["p_holm"] if against["p_holm"] is not None else against["p"])
    return {
        "name": row["name"],
        "kind": KINDS[row["kind"]],
        "unstable": row["unstable"],
        "in_top": row["in_top"],
        "reference": row["name"] == summary["reference"],
        "recommended": row["name"] == summary["recommended"],
        "score": (unit.score(row["score"]), unit.interval(row["interval"])),
        "sd": unit.score(row["sd"]) if row["sd"] is not None else "",
        "against": (NOTHING if against is None else unit.score(against["difference"], sign=True), p),
        "outcome": (against or {}).get("outcome") or "",
        "shuffled": {c["input"]: _signed(unit, c, "difference") for c in row["controls"].values() if c["how"] == "shuffled"},
        "interaction": _signed(unit, interaction, "value"),
        "shares": [(name, percent(part["share"], sign=True)) for name, part in shares["inputs"].items()]
        if shares and len(row["inputs"]) > 1
        else [],
        "calibration": NOTHING if row["calibration_error"] is None else f"{100 * row['calibration_error']:.1f}",
        "size": (count(cost["parameters"]), count(cost["macs"]) if cost["macs"] is not None else ""),
        "training": (seconds(cost["train_seconds"]), memory(cost["peak_memory"]) if cost["peak_memory"] is not None else ""),
        "latency": (milliseconds(cost["p50"]), milliseconds(cost["p99"]) if cost["p99"] is not None else ""),
        "runs_on": [(name, said == "yes", "" if said == "yes" else said) for name, said in row["runs_on"].items()],
    }


def _signed(unit: Unit, found: Mapping[str, Any] | None, key: str) -> tuple[str, str]:
    return (unit.score(found[key], sign=True), unit.interval(found["interval"], sign=True)) if found else (NOTHING, "")


def _columns(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """The optional columns that some row fills."""
    nothing = (NOTHING, "", [], (NOTHING, ""))
    return {name for row in rows for name in row if row[name] not in nothing}


def _protocol(summary: Summary) -> list[tuple[str, str]]:
    """How it was done, for whoever wants to do it again."""
    seeds = ", ".join(map(str, summary["seeds"]))
    matched = {"params": "parameters, to 3 %", "macs": "multiply-accumulates, to 3 %"}
    clusters = "" if summary["independent"] == summary["items"] else f", {summary['independent']:,} independent"
    found = [
        ("Seeds", seeds),
        ("Budget matched by", matched.get(summary["match"] or "", "nothing: sizes are as declared")),
        ("Tuning trials a row", str(summary["trials"])),
        ("Test items", f"{summary['items']:,} of split {summary['split']}{clusters}; controls on {summary['controlled']:,}"),
        (
            "Intervals",
            f"95 %, hierarchical bootstrap over seeds and test items, {summary['resamples']:,} draws, widened for few seeds",
        ),
        ("Tests", "paired on the same items and seeds; Holm's correction over the fusion rows; ties with the best as in Hsu's comparisons"),
        ("Reference", summary["reference"] or "none"),
        ("Command", summary["command"]),
        ("Commit", summary["commit"]),
    ]
    found += [(f"Frozen features of {name}", f"sha256 {digest}") for name, digest in summary["encoder_cache"].items()]
    return [(label, value) for label, value in found if value]
