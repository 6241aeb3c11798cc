"""What an explanation says: plain data for a server, lines for a terminal, a page for a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.evaluation.result import plain

BAR = 24  # characters of the longest bar
SHOWN = 8  # parts that a terminal shows of each item


@dataclass(frozen=True, slots=True)
class Explanation:
    """All values are of `quantity`; those above 0 speak for the answer. See `to_json` for what the lists hold."""

    task: str
    kind: str  # of the task: generate, classify, ...
    answer: str | None
    quantity: str
    value: float
    without: float  # the same with every input at its baseline
    modalities: Sequence[Mapping[str, Any]]
    interactions: Sequence[Mapping[str, Any]]
    parts: Sequence[Mapping[str, Any]] = ()
    explained: float | None = None
    check: Mapping[str, Any] | None = None
    passes: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()  # what the model does not know or was not given of what it was asked
    previews: Mapping[tuple[str, int], Any] = field(default_factory=dict)  # (input, item) -> what the page draws under the marks

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values.

        modalities: {input, value, percent, share, alone, baseline}; `percent` keeps its sign, `share` is of the absolute values.
        interactions: {inputs, value, percent}; percents are all of the sum of the inputs' absolute values. explained: the sum of the parts'
        values as a share of what all of them together change; None where that is less than one of them changes alone.
        parts: {input, item, kind, baseline, fill: {code, rows}, units: [{value, ...}], ...}; `fill` is the baseline for programs (its codes
        are baseline.FILLS). A picture has width and height, and each of its units a `box` [left, top, right, bottom], in pixels of the
        picture as it is shown (EXIF orientation applied); words have `start` and `end` in the text, sounds and frames in seconds, vectors
        `first` and `last`, columns their name. check: {deletion, insertion, parts, margin, better, needed}, see faithfulness.Check.
        """
        names = [name for name in self.__dataclass_fields__ if name != "previews"]
        return plain({name: getattr(self, name) for name in names})

    def html(self) -> str:
        """A page of its own: nothing from outside, light and dark."""
        from chiasm.explain.page import render

        return render(self)

    def lines(self) -> list[str]:
        """For a terminal, with bars."""
        change = f"{self.value:.3f}, and {self.without:.3f} without any input"
        lines = [f"{self.task}: {self.answer}" if self.answer is not None else self.task, f"explained: {self.quantity} ({change})", ""]
        lines += _bars([(m["input"], m["value"], f"{m['percent']:+.0f} %  baseline: {m['baseline']}") for m in self.modalities])
        lines += [f"  together {' and '.join(i['inputs'])}: {i['value']:+.3f} ({i['percent']:+.0f} %)" for i in self.interactions]
        for part in self.parts:
            name = part["input"] + (f" {part['item'] + 1}" if part["item"] else "")
            best = sorted(part["units"], key=lambda unit: -abs(unit["value"]))[:SHOWN]
            lines += ["", f"{name}, part by part (taken away: {part['baseline']})"]
            lines += _bars([(place(part, unit), unit["value"], "") for unit in best])
        if self.explained is not None:
            lines += ["", f"the parts one by one account for {100 * self.explained:.0f} % of the score; the rest is in how they combine"]
        said = [*self.notes, *(f"note: {warning}" for warning in self.warnings)]
        return [*lines, *(["", *said] if said else [])]


def place(part: Mapping[str, Any], unit: Mapping[str, Any]) -> str:
    """Where a unit is, in words."""
    match part["kind"]:
        case "words":
            return unit["text"]
        case "picture":
            left, top, right, bottom = unit["box"]
            return f"{left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}"
        case "sound" | "frames":
            return f"{unit['start']:.2f} to {unit['end']:.2f} s"
        case "columns":
            return f"{unit['column']} = {unit['is']}"
    return f"{unit['first'] + 1}" if unit["first"] == unit["last"] else f"{unit['first'] + 1} to {unit['last'] + 1}"


def _bars(rows: Sequence[tuple[str, float, str]]) -> list[str]:
    most = max((abs(value) for _, value, _ in rows), default=0.0) or 1.0
    width = max((len(name) for name, _, _ in rows), default=0)
    return [
        f"  {name:<{width}}  {value:+8.3f}  {('█' if value > 0 else '░') * round(BAR * abs(value) / most):<{BAR}}  {note}".rstrip()
        for name, value, note in rows
    ]
