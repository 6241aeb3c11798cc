#!/usr/bin/env python3
"""Draws docs/fusion.svg: where modality tokens meet the backbone, before, between or after its layers. `--png FILE` is one to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

TARGET = Path(__file__).resolve().parent.parent / "docs" / "fusion.svg"
TEXT, PICTURE, SOUND, FUSION, PAPER = "#dbe7f5", "#fde3c8", "#d9f0d6", "#f6cfe0", "#ffffff"
INK, LINE = "#222222", "#555555"
LAYERS = (3.0, 4.3, 5.6)  # heights of the backbone's layers
HIGH = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path, help="also draw a PNG here")
    figure = draw()
    save(figure, TARGET)
    print(f"wrote {TARGET}")
    png = parser.parse_args().png
    if png is not None:
        figure.savefig(png, dpi=110)


def save(figure: plt.Figure, target: Path) -> None:
    """The same bytes every time."""
    figure.savefig(target, metadata={"Date": None, "Creator": None})


def draw() -> plt.Figure:
    """Three panels side by side."""
    mpl.rcParams.update({"svg.hashsalt": "chiasm", "font.family": "DejaVu Sans", "font.size": 9.5})
    figure, panels = plt.subplots(1, 3, figsize=(12.6, 5.4), facecolor=PAPER)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.01, wspace=0.03)
    for axes, panel in zip(panels, (before, between, after), strict=True):
        axes.set(xlim=(0, 10), ylim=(0, 10.4))
        axes.axis("off")
        panel(axes)
    return figure


def before(axes: Axes) -> None:
    title(axes, "before", "early: tokens join the sequence", "fusion: early")
    backbone(axes, 0.6, 8.8)
    box(axes, 0.6, 0.4, 2.6, 1.0, "picture\nencoder", PICTURE)
    box(axes, 3.7, 0.4, 2.6, 1.0, "sound\nencoder", SOUND)
    box(axes, 6.8, 0.4, 2.6, 1.0, "words", TEXT)
    for x, colour in ((0.6, PICTURE), (3.7, SOUND), (6.8, TEXT)):
        tokens(axes, x, 1.95, colour)
        arrow(axes, (x + 1.3, 1.4), (x + 1.3, 1.9))
        arrow(axes, (x + 1.3, 2.4), (x + 1.3, LAYERS[0]))
    out(axes, 5.0, LAYERS[-1] + HIGH)


def between(axes: Axes) -> None:
    title(axes, "between", "intermediate: layers read the tokens", "fusion: cross_attention, gated_cross_attention")
    backbone(axes, 5.2, 4.2)
    box(axes, 0.4, 0.4, 2.3, 1.0, "picture\nencoder", PICTURE)
    box(axes, 2.9, 0.4, 2.1, 1.0, "sound\nencoder", SOUND)
    box(axes, 6.0, 0.4, 2.6, 1.0, "words", TEXT)
    for x, width, colour in ((0.4, 2.3, PICTURE), (2.9, 2.1, SOUND), (6.0, 2.6, TEXT)):
        tokens(axes, x, 1.95, colour, width)
        arrow(axes, (x + width / 2, 1.4), (x + width / 2, 1.9))
    arrow(axes, (7.3, 2.4), (7.3, LAYERS[0]))
    axes.plot([1.55, 1.55], [2.4, LAYERS[-1] + HIGH / 2], color=LINE, lw=1.2)
    axes.plot([3.95, 3.95], [2.4, LAYERS[-1] + HIGH / 2], color=LINE, lw=1.2)
    for height in LAYERS:
        axes.plot([1.55, 4.0], [height + HIGH / 2] * 2, color=LINE, lw=1.2)
        arrow(axes, (3.95, height + HIGH / 2), (5.2, height + HIGH / 2))
    axes.text(2.7, LAYERS[-1] + HIGH / 2 + 0.2, "attention", ha="center", va="bottom", color=INK, style="italic")
    out(axes, 7.3, LAYERS[-1] + HIGH)


def after(axes: Axes) -> None:
    title(axes, "after", "late: each decides, then they are combined", "fusion: late")
    backbone(axes, 6.0, 3.6)
    box(axes, 0.4, 0.4, 2.4, 1.0, "picture\nencoder", PICTURE)
    box(axes, 3.2, 0.4, 2.2, 1.0, "sound\nencoder", SOUND)
    box(axes, 6.5, 0.4, 2.6, 1.0, "words", TEXT)
    for x, width, colour in ((0.4, 2.4, PICTURE), (3.2, 2.2, SOUND), (6.5, 2.6, TEXT)):
        tokens(axes, x, 1.95, colour, width)
        arrow(axes, (x + width / 2, 1.4), (x + width / 2, 1.9))
    arrow(axes, (7.8, 2.4), (7.8, LAYERS[0]))
    box(axes, 0.4, 7.0, 9.2, HIGH, "combine: concat, sum, gated or decisions", FUSION)
    for x in (1.6, 4.3):
        arrow(axes, (x, 2.4), (x, 7.0))
    arrow(axes, (7.8, LAYERS[-1] + HIGH), (7.8, 7.0))
    out(axes, 5.0, 7.0 + HIGH)


def title(axes: Axes, name: str, meaning: str, recipe: str) -> None:
    axes.text(0.4, 10.15, name, fontsize=14, weight="bold", color=INK, va="top")
    axes.text(0.4, 9.55, meaning, color=INK, va="top")
    axes.text(0.4, 9.1, recipe, family="DejaVu Sans Mono", fontsize=8.5, color=LINE, va="top")


def backbone(axes: Axes, x: float, width: float) -> None:
    """The language model's layers, one above the other."""
    for number, height in enumerate(LAYERS, start=1):
        box(axes, x, height, width, HIGH, f"layer {number}", TEXT)
        if number < len(LAYERS):
            arrow(axes, (x + width / 2, height + HIGH), (x + width / 2, LAYERS[number]))


def box(axes: Axes, x: float, y: float, width: float, height: float, label: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch((x + 0.1, y + 0.1), width - 0.2, height - 0.2, boxstyle="round,pad=0.1", facecolor=colour, edgecolor=LINE, lw=1)
    )
    axes.text(x + width / 2, y + height / 2, label, ha="center", va="center", color=INK)


def tokens(axes: Axes, x: float, y: float, colour: str, width: float = 2.6) -> None:
    """A row of four small squares."""
    side = 0.42
    start = x + (width - 4 * side - 0.3) / 2
    for number in range(4):
        left = start + number * (side + 0.1)
        axes.add_patch(FancyBboxPatch((left, y), side, side, boxstyle="square,pad=0", facecolor=colour, edgecolor=LINE, lw=0.8))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=LINE, lw=1.2, shrinkA=0, shrinkB=0))


def out(axes: Axes, x: float, y: float) -> None:
    arrow(axes, (x, y), (x, y + 0.45))
    axes.text(x, y + 0.5, "tasks", ha="center", va="bottom", color=INK)


if __name__ == "__main__":
    main()
