"""Draws a fusion strategy from a trace of the strategy itself (`write_fusion_docs.py` draws them all).

Read from the bottom up. A circle is a node's state, a grey line keeps it. A coloured arrow: the upper node reads the lower one (dashed:
only the prompt's tokens of it; `k` in the upper circle: only the tokens that it chooses; `g`: through a gate that starts closed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from draw_fusion import FUSION, INK, LINE, PAPER, PICTURE, SOUND, TEXT, box
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from trace_fusion import LAYERS, Stage, Trace

FILL = {"image": PICTURE, "audio": SOUND, "latents": FUSION, "router": FUSION, "text": TEXT}
STRONG = {"image": "#c9760c", "audio": "#3d8b37", "latents": "#b03d78", "router": "#b03d78", "text": "#2d6bb0"}
APART, WIDE, HIGH, ROW, RADIUS, SIDE = 1.5, 1.2, 0.58, 0.85, 0.17, 0.2  # in inches at SCALE 1
SCALE = 0.74
KEPT: dict[str, Any] = {"color": "#b5b5b5", "lw": 1.4, "zorder": 0.5}


@dataclass(slots=True)
class Sheet:
    """Where things stand on one drawing."""

    axes: Axes
    x: Mapping[str, float]  # node -> the middle of its column
    y: float = 0.0  # what is drawn next starts here
    begun: dict[str, float] | None = None  # node -> where its line begins
    used: dict[str, float] | None = None  # node -> where it was needed last


def draw(name: str, trace: Trace) -> plt.Figure:
    """One strategy, from its inputs at the bottom to the tasks at the top."""
    mpl.rcParams.update({"svg.hashsalt": "chiasm", "font.family": "DejaVu Sans", "font.size": 9})
    nodes = [*trace.nodes[:-1], *(["router"] if trace.router else []), "text"]
    figure = plt.figure(facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    sheet = Sheet(axes, {node: APART * i for i, node in enumerate(nodes)}, begun={}, used={})
    inputs(sheet, trace)
    for layer in range(LAYERS):
        if layer in trace.between:
            stage(sheet, layer, trace.between[layer], gated=trace.gated)
        backbone_layer(sheet, layer)
    tasks(sheet, trace)
    for node, start in sheet.begun.items():
        axes.plot([sheet.x[node]] * 2, [start, sheet.used.get(node, start)], **KEPT)
    axes.text(-WIDE / 2, sheet.y + 0.45, name, family="DejaVu Sans Mono", weight="bold", fontsize=10.5, color=INK, va="center")
    left, right, low, high = -WIDE / 2 - 0.2, sheet.x["text"] + WIDE / 2 + 0.2, -0.2, sheet.y + 0.8
    axes.set(xlim=(left, right), ylim=(low, high))
    figure.set_size_inches(SCALE * (right - left), SCALE * (high - low))
    return figure


def inputs(sheet: Sheet, trace: Trace) -> None:
    """The row of encoders and words; above it, the sequence that enters the first layer where it is not the text alone."""
    for node, x in sheet.x.items():
        if node != "router":
            box(sheet.axes, x - WIDE / 2, 0, WIDE, HIGH, {"text": "words"}.get(node, node), FILL[node])
            sheet.begun[node] = HIGH
    sheet.y = HIGH
    if all(token == {"text"} for token in trace.before):
        return
    sheet.y += ROW
    start = sheet.x["text"] - SIDE * len(trace.before) / 2
    for place, readers in enumerate(trace.before):
        node = next((name for name in sheet.x if name in readers and "text" not in readers), "text")
        square = (start + SIDE * place, sheet.y)
        sheet.axes.add_patch(Rectangle(square, SIDE, SIDE, facecolor=FILL[node], edgecolor=LINE, lw=0.8, zorder=3))
    for node in (name for name in sheet.x if name != "text"):
        places = [place for place, readers in enumerate(trace.before) if node in readers]
        if places:
            end = (start + SIDE * (sum(places) / len(places) + 0.5), sheet.y - 0.02)
            arrow(sheet, f"before.{node}.text", node, (sheet.x[node], HIGH), end)
    sheet.used["text"] = sheet.y
    line(sheet, sheet.y + SIDE, sheet.y + SIDE + 0.2)
    sheet.y += SIDE + 0.05


def stage(sheet: Sheet, layer: int, stage: Stage, *, gated: bool) -> None:
    """The readings ahead of one layer."""
    base = sheet.y + 0.38
    states = {(r.source, r.source_row) for r in stage.readings} | {(r.target, r.row) for r in stage.readings}
    states |= {(r.target, 0) for r in stage.readings}
    inner = {}
    for r in stage.readings:
        inner[r.target, r.row] = "k" if r.chosen else "g" if gated else ""
    for name, row in sorted(states):
        circle(sheet, name, base + ROW * row, inner.get((name, row), ""))
    for r in sorted(set(stage.readings), key=lambda r: (r.source, r.target, r.row)):
        start, end = (sheet.x[r.source], base + ROW * r.source_row), (sheet.x[r.target], base + ROW * r.row)
        name = f"layer{layer + 1}.{r.source}{r.source_row}.{r.target}{r.row}"
        arrow(sheet, name, r.source, start, end, dashed=r.prompt_only, between=True)
    sheet.y = base + ROW * stage.rows


def circle(sheet: Sheet, name: str, y: float, letter: str = "") -> None:
    place = (sheet.x[name], y)
    sheet.axes.add_patch(Circle(place, RADIUS, facecolor=FILL[name], edgecolor=STRONG[name], lw=1.2, zorder=4))
    if letter:
        sheet.axes.text(*place, letter, ha="center", va="center_baseline", fontsize=8, color=INK, zorder=5)
    sheet.used[name] = max(y, sheet.used.get(name, 0.0))


def backbone_layer(sheet: Sheet, layer: int) -> None:
    sheet.y += 0.36
    box(sheet.axes, sheet.x["text"] - WIDE / 2, sheet.y, WIDE, HIGH, f"layer {layer + 1}", TEXT)
    sheet.y += HIGH
    sheet.used["text"] = sheet.y


def tasks(sheet: Sheet, trace: Trace) -> None:
    """What the tasks get: the text alone, one combination, or several weighted branches."""
    readers = set().union(*trace.branches.values())
    top = sheet.y
    if trace.router:
        sheet.y += 0.45
        for name, prompt_only in trace.router.items():
            circle(sheet, name, sheet.y)
            start, end = (sheet.x[name], sheet.y), (sheet.x["router"], sheet.y + ROW)
            arrow(sheet, f"after.{name}.router", name, start, end, dashed=prompt_only, between=True)
        sheet.y += ROW
        circle(sheet, "router", sheet.y)
        sheet.axes.text(sheet.x["router"], sheet.y - 0.36, "router", ha="center", va="center", color=INK, fontsize=8)
    if readers == {"text"}:
        for node in sheet.x if not trace.between and all(token == {"text"} for token in trace.before) else ["text"]:
            arrow(sheet, f"after.{node}.tasks", node, (sheet.x[node], top if node == "text" else HIGH), (sheet.x[node], top + 0.6))
            sheet.axes.text(sheet.x[node], top + 0.66, "tasks", ha="center", va="bottom", color=INK)
        sheet.y = top + 0.75
        return
    sheet.y += 0.75
    first = min(sheet.x[name] for name in readers) - WIDE / 2
    label = "combine vectors" if len(trace.branches) == 1 else "weighted decisions"
    box(sheet.axes, first, sheet.y, sheet.x["text"] + WIDE / 2 - first, HIGH, label, FUSION)
    for name in sorted(readers):
        arrow(sheet, f"after.{name}.tasks", name, (sheet.x[name], top if name == "text" else HIGH), (sheet.x[name], sheet.y))
    if trace.router:
        arrow(sheet, "after.router.tasks", "router", (sheet.x["router"], sheet.y - 0.75 + RADIUS), (sheet.x["router"], sheet.y))
    sheet.y += HIGH
    middle = (first + sheet.x["text"] + WIDE / 2) / 2
    arrow(sheet, "tasks", "text", (middle, sheet.y), (middle, sheet.y + 0.45))
    sheet.axes.text(middle, sheet.y + 0.5, "tasks", ha="center", va="bottom", color=INK)
    sheet.y += 0.6


def line(sheet: Sheet, start: float, end: float) -> None:
    sheet.axes.plot([sheet.x["text"]] * 2, [start, end], **KEPT)


def arrow(
    sheet: Sheet,
    name: str,
    node: str,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    dashed: bool = False,
    between: bool = False,
) -> None:
    """From a node's state; `between`: from circle to circle."""
    gap = 72 * SCALE * RADIUS if between else 0
    style = {"linestyle": (0, (3, 2))} if dashed else {}
    patch = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=8, color=STRONG[node], lw=1.4, shrinkA=gap, shrinkB=gap, zorder=3, **style
    )
    patch.set_gid(name + (".prompt" if dashed else ""))
    sheet.axes.add_patch(patch)
    sheet.used[node] = max(sheet.used.get(node, 0.0), start[1])
