"""Training curves as inline SVG, drawn from the lines of log.jsonl. Colours come from the page's style, so they fit light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 20, 28
POINTS = 240  # most points of a line
COLOURS = 6  # classes c0..c5 of the page's style

Point = tuple[float, float]


@dataclass(slots=True)
class Chart:
    """Lines over training steps. `marks` are vertical lines, where a stage starts."""

    title: str
    lines: dict[str, list[Point]]
    log: bool = False
    smooth: bool = False  # draw the raw line faintly and its running mean on top
    marks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def legend(self) -> list[tuple[int, str]]:
        """(colour, name) of each line; none for a single line."""
        return [(i % COLOURS, name) for i, name in enumerate(self.lines)] if len(self.lines) > 1 else []

    def svg(self) -> str:
        """The whole drawing; it scales with the page's width."""
        x, y = self._scales()
        parts = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}" xmlns="http://www.w3.org/2000/svg">',
            *self._grid(x, y),
        ]
        for i, points in enumerate(self.lines.values()):
            points = thin(points)
            if self.smooth and len(points) > 20:
                parts.append(_path(points, x, y, f"line raw c{i % COLOURS}"))
                points = running_mean(points)
            parts.append(_path(points, x, y, f"line c{i % COLOURS}"))
            if len(points) <= 40:
                parts += [f'<circle class="dot c{i % COLOURS}" cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="2.6"/>' for a, b in points]
        return "".join([*parts, "</svg>"])

    def _scales(self) -> tuple[Scale, Scale]:
        every = [p for points in self.lines.values() for p in points]
        x = Scale(min(p[0] for p in every), max(p[0] for p in every), LEFT, WIDTH - RIGHT)
        low, high = min(p[1] for p in every), max(p[1] for p in every)
        if not self.log:
            low, high = min(low, 0.0), max(high, 1.0) if 0.3 < high <= 1 else high
        return x, Scale(low, high, HEIGHT - BOTTOM, TOP, log=self.log)

    def _grid(self, x: Scale, y: Scale) -> list[str]:
        found = []
        for value in y.ticks(5):
            place = y.at(value)
            found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
            found.append(f'<text class="tick" x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{short(value)}</text>')
        for value in x.ticks(6):
            found.append(f'<text class="tick" x="{x.at(value):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{short(value)}</text>')
        for step, name in self.marks:
            if x.low <= step <= x.high:
                place = x.at(step)
                found.append(f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
                found.append(f'<text class="tick" x="{place + 5:.1f}" y="{TOP - 5}">{escape(name)}</text>')
        return found


class Scale:
    """Values low..high onto pixels a..b."""

    def __init__(self, low: float, high: float, a: float, b: float, *, log: bool = False):
        self.log = log
        self.low, self.high = low, high if high > low else low + (abs(low) or 1.0)
        self.a, self.b = a, b

    def at(self, value: float) -> float:
        low, high, value = (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.a + (self.b - self.a) * (value - low) / (high - low)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values inside the scale."""
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
                found = [f * 10.0**e for e in exponents for f in factors if self.low <= f * 10.0**e <= self.high]
                if len(found) >= 3:
                    break
            return found
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
        return [step * i for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def charts(log: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """Loss, validation scores and learning rate, each where the log has it. A step is {"step", "stage", "loss", "losses": {task: loss},
    "learning_rate"}, an evaluation {"event": "evaluation", "step", "split", "metrics": {key: value}}."""
    log = [line for line in log if isinstance(line.get("step"), (int, float))]
    steps = [line for line in log if "event" not in line]
    marks = _stage_marks(steps)
    losses = _series({"step": line["step"], **(line.get("losses") or {"loss": line.get("loss")})} for line in steps)
    scores = _shown(_series({"step": line["step"], **line["metrics"]} for line in log if line.get("event") == "evaluation"))
    rate = _series({"step": line["step"], "learning rate": line.get("learning_rate")} for line in steps)
    spread = [v for points in losses.values() for _, v in points]
    found = []
    if losses:
        found.append(Chart("Loss", losses, log=min(spread) > 0 and max(spread) > 20 * min(spread), smooth=True, marks=marks))
    if scores:
        found.append(Chart("Validation", scores, marks=marks))
    if rate:
        found.append(Chart("Learning rate", rate, marks=marks))
    return found


def _series(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, []).append((float(line["step"]), float(value)))
    return found


def _shown(scores: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """Each task's main figure and how it is with an input shuffled; as many as there are colours."""
    mains: dict[str, str] = {}
    for name in scores:
        mains.setdefault(name.partition(".")[0], name)
    heads = {name.partition("[")[0] for name in mains.values()}
    shuffled = [n for n in scores if "=" not in n and n.endswith(" shuffled]") and n.partition("[")[0] in heads and "->" not in n]
    return {name: scores[name] for name in [*mains.values(), *shuffled][:COLOURS]}


def _stage_marks(log: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    first: dict[str, float] = {}
    for line in log:
        if line.get("stage") is not None:
            first.setdefault(str(line["stage"]), float(line["step"]))
    return [(step, name) for name, step in first.items()] if len(first) > 1 else []


def thin(points: Sequence[Point]) -> list[Point]:
    """At most POINTS points, each the mean of its neighbours, so that noise does not alias."""
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), max(size, 1))]
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups]


def running_mean(points: Sequence[Point], *, weight: float = 0.7) -> list[Point]:
    """Exponential running mean, without the pull of a zero start."""
    found, total, norm = [], 0.0, 0.0
    for x, y in points:
        total, norm = weight * total + (1 - weight) * y, weight * norm + (1 - weight)
        found.append((x, total / norm))
    return found


def short(value: float) -> str:
    """A tick label: 12k, 0.25, 3e-4."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"


def _path(points: Sequence[Point], x: Scale, y: Scale, style: str) -> str:
    line = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
    return f'<polyline class="{style}" points="{line}"/>'
