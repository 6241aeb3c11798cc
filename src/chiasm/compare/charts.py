"""The drawings of a comparison's page, as inline SVG. Colours come from the page's style, so they fit light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chiasm.compare.figures import Unit, count, milliseconds, percent, seconds
from chiasm.report.curves import COLOURS, Scale, short

Summary = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

WIDTH = 980
LINE = 26  # height of a row
COSTS = {
    "macs": ("MACs", count),
    "parameters": ("parameters", count),
    "p50": ("latency p50, ms", milliseconds),
    "train_seconds": ("training", seconds),
}
MATCHED = {"params": "parameters", "macs": "macs"}


def scores(summary: Summary) -> str:
    """All rows, best first: a dot for the mean, a line for the interval, a small dot for each seed; dashed lines for the references."""
    unit, rows = Unit.of(summary), by_score(summary)
    shown = [row for row in rows if row["kind"] != "majority"] or rows
    low = min(min([row["interval"][0], *row["by_seed"]]) for row in shown) * unit.factor
    high = max(max([row["interval"][1], *row["by_seed"]]) for row in shown) * unit.factor
    x, height = Scale(low, high, 230, WIDTH - 170), LINE * len(rows) + 36
    parts = [_open(WIDTH, height, f"{summary['metric']} of all rows with intervals"), *_grid_x(x, height)]
    for row in rows:
        if row["name"] == summary["reference"]:
            parts.append(_line("mark", x.at(row["score"] * unit.factor), 6, x.at(row["score"] * unit.factor), height - 26))
    for number, row in enumerate(rows):
        parts += _score_line(row, x, LINE * number + 20, unit)
    return "".join([*parts, "</svg>"])


def _score_line(row: Mapping[str, Any], x: Scale, y: float, unit: Unit) -> list[str]:
    style, name = "top" if row["in_top"] else "rest", row["name"]
    parts = [_text(f"label {style}", 0, y + 4, _cut(name, 30))]
    low, value, high = (v * unit.factor for v in (row["interval"][0], row["score"], row["interval"][1]))
    if value < x.low:
        parts.append(_text("tick", x.a, y + 4, f"◂ {unit.score(row['score'])}"))
    else:
        parts.append(_line(f"whisker {style}", x.at(max(low, x.low)), y, x.at(min(high, x.high)), y))
        if len(row["by_seed"]) > 1:
            parts += [_dot(f"seed {style}", x.at(v * unit.factor), y, 2.4) for v in row["by_seed"]]
        parts.append(_dot(f"mean {style}", x.at(value), y, 5.5, name))
    parts.append(_text("label top", WIDTH - 104, y + 4, unit.score(row["score"]), "end"))
    return [*parts, _text("tick", WIDTH, y + 4, unit.interval(row["interval"]), "end")]


def curves(summary: Summary) -> dict[str, list[tuple[str, str]]]:
    """How ("missing", "noise") -> (row, drawing): the score while more and more of one input is taken away, a line per input."""
    found: dict[str, list[tuple[str, str]]] = {}
    for how in dict.fromkeys(c["how"] for row in summary["rows"] for c in row["controls"].values() if c["level"] is not None):
        lines = {row["name"]: _levels(row, how, Unit.of(summary)) for row in by_score(summary)}
        lines = {name: known for name, known in lines.items() if known}
        values = [v for known in lines.values() for line in known.values() for _, v in line]
        levels = [level for known in lines.values() for line in known.values() for level, _ in line]
        y = Scale(min(values), max(values), 128, 10)
        found[how] = [(name, _curve(known, Scale(0, max(levels), 36, 232), y, inputs(summary), name)) for name, known in lines.items()]
    return found


def _levels(row: Mapping[str, Any], how: str, unit: Unit) -> dict[str, list[tuple[float, float]]]:
    """Input -> (level, score), from the score as it is."""
    found: dict[str, dict[float, float]] = {}
    for control in row["controls"].values():
        if control["how"] == how and control["level"] is not None:
            found.setdefault(control["input"], {0.0: control["real"] * unit.factor})[control["level"]] = control["score"] * unit.factor
    return {name: sorted(line.items()) for name, line in found.items()}


def _curve(lines: Mapping[str, list[tuple[float, float]]], x: Scale, y: Scale, names: Sequence[str], title: str) -> str:
    parts = [_open(240, 156, f"{title}: score over the level")]
    for value in y.ticks(4):
        parts += [_line("grid", 36, y.at(value), 232, y.at(value)), _text("tick", 30, y.at(value) + 4, short(value), "end")]
    for value, anchor in ((0.0, "middle"), (x.high / 2, "middle"), (x.high, "end")):
        parts.append(_text("tick", x.at(value), 148, f"{100 * value:g} %" if x.high <= 1 else short(value), anchor))
    for name, line in lines.items():
        colour = f"c{names.index(name) % COLOURS}"
        parts.append(_path(f"line {colour}", [(x.at(a), y.at(b)) for a, b in line]))
        parts += [_dot(f"dot {colour}", x.at(a), y.at(b), 2.6, name) for a, b in line]
    return "".join([*parts, "</svg>"])


def shares(summary: Summary) -> str:
    """A bar per input and row: its part in the probability of the true label, with its interval; to the left of zero it misleads."""
    rows, names = [row for row in by_score(summary) if row["shares"] and len(row["shares"]["inputs"]) > 1], inputs(summary)
    if not rows:
        return ""
    bounds = [b for row in rows for part in row["shares"]["inputs"].values() for b in part["interval"]]
    x = Scale(min(0.0, *bounds), max(0.0, *bounds), 230, WIDTH - 70)
    heights = [15 * len(row["shares"]["inputs"]) + 14 for row in rows]
    height, top = sum(heights) + 36, 10
    parts = [_open(WIDTH, height, "part of each input in the probability of the true label"), *_grid_x(x, height, percent_ticks=True)]
    for row, room in zip(rows, heights, strict=True):
        parts.append(_text(f"label {'top' if row['in_top'] else 'rest'}", 0, top + (room - 14) / 2 + 4, _cut(row["name"], 30)))
        for number, (name, part) in enumerate(row["shares"]["inputs"].items()):
            parts += _share_bar(name, part, x, top + 15 * number, names.index(name) % COLOURS)
        top += room
    return "".join([*parts, _line("axis", x.at(0), 6, x.at(0), height - 26), "</svg>"])


def _share_bar(name: str, part: Mapping[str, Any], x: Scale, y: float, colour: int) -> list[str]:
    zero, value = x.at(0), x.at(part["part"])
    place = f'x="{min(zero, value):.1f}" y="{y:.1f}" width="{max(abs(value - zero), 1):.1f}" height="11" rx="2"'
    return [
        f'<rect class="bar c{colour}" {place}><title>{escape(name)}</title></rect>',
        _line("whisker", x.at(part["interval"][0]), y + 5.5, x.at(part["interval"][1]), y + 5.5),
        _text("tick", WIDTH, y + 10, percent(part["share"], sign=True), "end"),
    ]


def costs(summary: Summary) -> list[tuple[str, str]]:
    """(cost, drawing) of score over cost, for up to two costs that differ between rows; the matched one does not."""
    found = []
    for name, (title, text) in COSTS.items():
        rows = [row for row in by_score(summary) if row["cost"][name] and row["kind"] != "majority"]
        values = [row["cost"][name] for row in rows]
        if name != MATCHED.get(summary["match"] or "") and len(rows) > 1 and max(values) > 1.1 * min(values):
            found.append((title, _cost(rows, name, text, title, Unit.of(summary))))
    return found[:2]


def _cost(rows: Rows, name: str, text: Any, title: str, unit: Unit) -> str:
    values = [row["cost"][name] for row in rows]
    x = Scale(min(values) / 1.15, max(values) * 1.15, 44, 340, log=True)
    y = Scale(min(row["interval"][0] for row in rows) * unit.factor, max(row["interval"][1] for row in rows) * unit.factor, 262, 14)
    parts = [_open(520, 300, f"score over {title}")]
    for value in y.ticks(5):
        parts += [_line("grid", 44, y.at(value), 340, y.at(value)), _text("tick", 36, y.at(value) + 4, short(value), "end")]
    parts += [_text("tick", x.at(value), 284, text(value), "middle") for value in x.ticks(4)]
    places = _apart([y.at(row["score"] * unit.factor) for row in rows])
    for row, place in zip(rows, places, strict=True):
        style, at = "top" if row["in_top"] else "rest", x.at(row["cost"][name])
        low, middle, high = (y.at(v * unit.factor) for v in (row["interval"][0], row["score"], row["interval"][1]))
        parts += [_path("leader", [(at + 7, middle), (346, place), (352, place)]), _line(f"whisker {style}", at, low, at, high)]
        parts += [_dot(f"mean {style}", at, middle, 5, row["name"]), _text(f"tick {style}", 356, place + 4, _cut(row["name"], 24))]
    return "".join([*parts, "</svg>"])


def _apart(places: Sequence[float], gap: float = 13) -> list[float]:
    """Places of labels, moved so that none covers another, in the order given (which is from the top down)."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + gap) if found else place)
    over = max(found[-1] - 266, 0.0)  # the whole column moves up where it would run out of the drawing
    for i in range(len(found) - 1, -1, -1):
        limit = found[i + 1] - gap if i + 1 < len(found) else found[i] - over
        found[i] = min(found[i], limit)
    return found


def by_score(summary: Summary) -> Rows:
    """The rows that have a score, best first."""
    known = [row for row in summary["rows"] if row["score"] is not None]
    return sorted(known, key=lambda row: -row["score"] if summary["higher_is_better"] else row["score"])


def inputs(summary: Summary) -> list[str]:
    """Every input that some row may look at, in order; its place is its colour."""
    named = [name for row in summary["rows"] for name in row["inputs"]]
    named += [control["input"] for row in summary["rows"] for control in row["controls"].values()]
    return list(dict.fromkeys(named))


def _open(width: int, height: int, title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'


def _grid_x(x: Scale, height: int, *, percent_ticks: bool = False) -> list[str]:
    parts = []
    for value in x.ticks(7):
        text = f"{short(round(100 * value, 9) + 0.0)} %" if percent_ticks else short(value)
        parts += [_line("grid", x.at(value), 6, x.at(value), height - 26), _text("tick", x.at(value), height - 8, text, "middle")]
    return parts


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _path(style: str, points: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="{style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'


def _dot(style: str, x: float, y: float, radius: float, title: str = "") -> str:
    place = f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f"{place}><title>{escape(title)}</title></circle>" if title else f"{place}/>"


def _text(style: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
