"""The cases whose answers are known beforehand, so that anyone can see whether a comparison tells the truth (`compare --known-answers`).

Each is a shipped recipe on the built-in digits, the fusions to compare on it, and rules that the summary must obey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from chiasm.compare.verdict import verdict

Summary = Mapping[str, Any]

ENSEMBLE = "ensemble of unimodal"
VOTES = "late:combine=decisions"
CHANCE, NOISE = 0.1, 0.03  # of ten digits; what 1,000 test items and a few seeds may add to it


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must be so: in words, and whether it is so in a summary. `rows`: whose scores to show where it is not."""

    says: str
    holds: Callable[[Summary], bool]
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """A shipped recipe, what is known about its data, and what must come out. `vary`: as `compare` takes it."""

    name: str
    claim: str
    fusions: tuple[str, ...]
    rules: tuple[Rule, ...]
    vary: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        return f"known_{self.name}"


def failures(case: Case, summary: Summary) -> list[str]:
    """What is not as it must be, one sentence each; empty where the case passes."""
    names, found = {row["name"] for row in summary["rows"]}, []
    for rule in case.rules:
        if absent := [row for row in rule.rows if row not in names]:
            found.append(f"{case.name}: the table has no row `{absent[0]}`")
        elif not rule.holds(summary):
            shown = ", ".join(f"`{row}` {score(summary, row):.3f}" for row in rule.rows)
            found.append(f"{case.name}: {rule.says}{f'; found {shown}' if shown else f'; found: {verdict(summary).line}'}")
    return found


def row_of(summary: Summary, name: str) -> Mapping[str, Any]:
    return next(row for row in summary["rows"] if row["name"] == name)


def score(summary: Summary, name: str) -> float:
    return row_of(summary, name)["score"]


# ---- rules


def learned(row: str, least: float) -> Rule:
    """Most seeds reach `least`: with three of them, two."""
    return Rule(f"`{row}` must reach {least:.2f} with most seeds", lambda s: median(row_of(s, row)["by_seed"]) >= least, (row,))


def at_chance(row: str) -> Rule:
    return Rule(f"`{row}` must be within {NOISE} of {CHANCE}", lambda s: abs(score(s, row) - CHANCE) <= NOISE, (row,))


def at_most(row: str, most: float) -> Rule:
    return Rule(f"`{row}` must not be above {most:.2f}", lambda s: score(s, row) <= most, (row,))


def above(row: str, other: str, least: float) -> Rule:
    says = f"`{row}` must be at least {least:.2f} above `{other}`"
    return Rule(says, lambda s: score(s, row) - score(s, other) >= least, (row, other))


def last(row: str) -> Rule:
    def holds(s: Summary) -> bool:
        return row == min((r for r in s["rows"] if r["kind"] == "fusion"), key=lambda r: r["score"])["name"]

    return Rule(f"`{row}` must be the last of the fusions", holds)


def nobody_beats_the_ensemble() -> Rule:
    def holds(s: Summary) -> bool:
        against = [row["against_reference"]["outcome"] for row in s["rows"] if row["kind"] == "fusion"]
        return s["reference"] == ENSEMBLE and "better" not in against and verdict(s).winner is None

    return Rule(f"no fusion may be called better than `{ENSEMBLE}`", holds)


def suffices(row: str) -> Rule:
    """The verdict line says of one input alone, and of no other, that it is enough."""

    def holds(s: Summary) -> bool:
        return f"One input suffices: `{row}` is in the top group." in verdict(s).line

    return Rule(f"`{row}`, and no other input, must be said to suffice", holds)


def recommended(row: str) -> Rule:
    return Rule(f"`{row}` must be recommended", lambda s: s["recommended"] == row)


def interaction_is_necessary() -> Rule:
    return Rule("interaction must be called necessary", lambda s: "Interaction is necessary" in verdict(s).line)


# ---- the cases

CASES = (
    Case(
        "redundant",
        "the same digit twice, under noises of their own: no fusion can do more than an ensemble of the two alone",
        ("early", VOTES),
        (nobody_beats_the_ensemble(), learned("early", 0.8), above(ENSEMBLE, "image alone", 0.02), above(ENSEMBLE, "audio alone", 0.02)),
    ),
    Case(
        "interaction",
        "the sum of two digits modulo 10: each alone, and every vote of the two, is at chance",
        ("early", "late:combine=concat", VOTES),
        (
            learned("early", 0.9),
            learned("late:combine=concat", 0.9),
            last(VOTES),
            at_chance(VOTES),
            at_chance(ENSEMBLE),
            interaction_is_necessary(),
        ),
    ),
    Case(
        "unique",
        "the written digit beside an unrelated spoken one: the picture is all there is",
        ("early", VOTES),
        (suffices("image alone"), at_chance("audio alone"), learned("early", 0.85)),
    ),
    Case(
        "match",
        "four written digits and a spoken place: tokens must be told apart, which an average of the four cannot",
        ("early", "late:combine=concat"),
        (learned("early", 0.8), at_most("late:combine=concat", 0.6), at_most("image alone", 0.35), at_chance("audio alone")),
    ),
    Case(
        "missing",
        "every test row lacks one of two inputs: hiding inputs in training must help",
        ("early",),
        (above("early [modality_dropout=0.3]", "early [modality_dropout=0]", 0.05),),
        vary=("train.modality_dropout=0,0.3",),
    ),
)
