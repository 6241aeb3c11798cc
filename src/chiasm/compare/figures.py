"""Figures of a summary as text: shares of 1 in points (76.2), everything else in its own unit, costs in the unit that reads best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.report.html import duration

NOTHING = "\N{EN DASH}"
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Unit:
    """How scores of one comparison are written."""

    points: bool
    higher_is_better: bool = True

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Unit:
        return cls(summary["unit"] == "points", summary["higher_is_better"])

    @property
    def factor(self) -> float:
        """What scores are multiplied by."""
        return 100.0 if self.points else 1.0

    @property
    def name(self) -> str:
        """With a space ahead, for a sentence: " points"."""
        return " points" if self.points else ""

    def score(self, value: float | None, *, sign: bool = False) -> str:
        """76.2 or, with `sign`, +1.3; an en dash where there is none."""
        if value is None:
            return NOTHING
        value *= self.factor
        if self.points:
            return f"{value + 0.0:{'+' if sign else ''}.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")
        return f"{value:{'+' if sign else ''}.3g}"

    def interval(self, bounds: Sequence[float | None] | None, *, sign: bool = False) -> str:
        """[74.1, 78.2]; empty where there is none."""
        if bounds is None or None in bounds:
            return ""
        return f"[{', '.join(self.score(b, sign=sign) for b in bounds)}]"

    def change(self, found: Mapping[str, Any] | None, key: str = "difference") -> str:
        """+1.3 [0.2, 2.4] of a difference with its interval."""
        if not found or found[key] is None:
            return NOTHING
        return f"{self.score(found[key], sign=True)} {self.interval(found['interval'], sign=True)}".strip()


def p_text(p: float | None) -> str:
    """p=.41, p=.003, p<.001."""
    if p is None:
        return ""
    if p < 0.001:
        return "p<.001"
    return "p=1" if p >= 0.995 else "p=" + (f"{p:.2f}" if p >= 0.0995 else f"{p:.3f}").removeprefix("0")


def count(value: float | None) -> str:
    """12.3 M, 850 k, 420."""
    if value is None:
        return NOTHING
    for scale, letter in SCALES:
        if value >= 0.9995 * scale:
            return f"{value / scale:.3g} {letter}"
    return f"{value:.3g}"


def memory(value: float | None) -> str:
    """Bytes as MB or GB."""
    return NOTHING if value is None else f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def seconds(value: float | None) -> str:
    """Training time: 0.8 s, 45 s, 7 min 30 s."""
    return NOTHING if value is None else f"{value:.1f} s" if value < 10 else duration(value)


def milliseconds(value: float | None) -> str:
    """Latency: 0.42, 3.1, 25."""
    return NOTHING if value is None else f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def percent(value: float | None, *, sign: bool = False) -> str:
    """A share of 1: 62 %, or -4 %."""
    return NOTHING if value is None else f"{100 * value + 0.0:{'+' if sign else ''}.0f} %"


def listed(names: Sequence[str]) -> str:
    """`a`, `b` and `c`."""
    marked = [f"`{name}`" for name in names]
    return " and ".join([", ".join(marked[:-1]), marked[-1]] if len(marked) > 1 else marked)
