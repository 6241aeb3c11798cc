"""From a run and a row to an explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal

from chiasm.components import did_you_mean
from chiasm.explain.baseline import Baseline, baselines, data_rows
from chiasm.explain.faithfulness import NEEDED, Check, check
from chiasm.explain.modalities import Group, coalitions, interactions, shapley
from chiasm.explain.occlusion import PASSES, Map, cuts_of, occlude
from chiasm.explain.page import previews_of
from chiasm.explain.result import Explanation
from chiasm.explain.subject import Subject
from chiasm.explain.target import target_of
from chiasm.explain.units import Cut
from chiasm.notes import Note, known_notes
from chiasm.run import Run
from chiasm.tasks.contrast import check_sides
from chiasm.types import BadInput, ChiasmError

LEVELS = ("modality", "token")
SMALL = 1e-9


def explain(
    run: Run,
    parts: Mapping[str, Any],
    *,
    task: str | None = None,
    target: str | None = None,
    level: Literal["modality", "token"] | str = "token",
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Why a run answers as it does: what each input is worth and, at level token, which parts of them.

    `parts`: inputs as `run.answer` takes them. `target`: the answer to explain (a text, or a label), the model's own if not given.
    `progress(done, total)` counts rows that go through the model. Raises ChiasmError for what cannot be explained.
    """
    if level not in LEVELS:
        raise ChiasmError(f"level: '{level}' is unknown{did_you_mean(level, LEVELS)}")
    (opened,) = run.open([parts])
    chosen = run.task_for(opened.sample.parts, task)
    check_sides(chosen, opened.sample, run.tasks)
    warnings = [*run.notes(parts, task=chosen.name), *_target_notes(run, chosen, target)]
    aim = target_of(chosen, target, lambda: run.predict_opened(chosen, [opened])[0])
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, max(total, done))

    total = 1
    subject = Subject(run, aim, opened, progress=count)
    if not subject.inputs:
        raise ChiasmError(f"task {chosen.name} was given none of its inputs: {', '.join(chosen.inputs)}")
    known = baselines(run, subject)
    total = 2 ** len(known) + (2 * PASSES if level == "token" else 0)  # the check's orders take no more than the parts
    prior, average = _prior(run, subject, known)
    passes = {"average": subject.passes} if average else {}
    values = coalitions(subject, {name: baseline.absent for name, baseline in known.items()}, prior)
    passes |= {"modalities": subject.passes - sum(passes.values())}
    found: dict[str, Any] = {}
    if level == "token":
        found, passes = _token_level(run, subject, known, passes)
    if progress is not None:
        progress(total, total)
    notes = [*filter(None, [average]), *found.pop("notes", [])]
    shares = _shares(values, known)
    without = values[frozenset()]
    kind = type(chosen).__name__.lower()
    found |= {"passes": passes, "notes": notes, "warnings": warnings}
    return Explanation(chosen.name, kind, aim.answer, aim.quantity, subject.whole, without, **shares, **found)


def _target_notes(run: Run, task: Any, target: str | None) -> list[Note]:
    """Notes of an answer that is to be explained; BadInput for a text that the model cannot write."""
    if target is None or not task.writes:
        return []
    if not target.strip():
        raise BadInput("empty", "target: an empty text; give the answer to explain, or leave it out for the run's own", input="target")
    return known_notes(run, "target", [target], "target", target=True)


def _shares(values: Mapping[Group, float], known: Mapping[str, Baseline]) -> dict[str, Any]:
    """What each input, and each pair of them, is worth; percents are of the sum of the inputs' absolute values."""
    worth, without = shapley(values), values[frozenset()]
    size = sum(map(abs, worth.values()))
    size = size if size > SMALL else 1.0
    each = [
        {
            "input": name,
            "value": worth[name],
            "percent": 100 * worth[name] / size,
            "share": abs(worth[name]) / size,
            "alone": values[frozenset([name])] - without,
            "baseline": baseline.name,
        }
        for name, baseline in known.items()
    ]
    pairs = [{"inputs": list(pair), "value": value, "percent": 100 * value / size} for pair, value in interactions(values).items()]
    return {"modalities": each, "interactions": pairs}


def _prior(run: Run, subject: Subject, known: Mapping[str, Baseline]) -> tuple[float | None, str]:
    """(the number without any input, how that is known) where no pass can tell it: modality dropout leaves every row one input, so a
    model has never learned what to say without any; what it says on average of the data is what one knows who is shown nothing."""
    if len(known) < 2 or not all(baseline.learned for baseline in known.values()) or not (rows := data_rows(run)):
        return None, ""
    return subject.prior(rows), f"without any input: the average over {len(rows)} rows of the data"


def _token_level(
    run: Run, subject: Subject, known: Mapping[str, Baseline], passes: dict[str, int]
) -> tuple[dict[str, Any], dict[str, int]]:
    """(parts, explained, check, notes and previews; passes of each step)."""
    cuts, before = cuts_of(run, subject, known), subject.passes
    if not cuts:
        return {"notes": ["no input can be taken apart"]}, passes
    units = occlude(subject, cuts)
    passes = {**passes, "parts": subject.passes - before}
    before, checked = subject.passes, check(subject, units)
    passes = {**passes, "check": subject.passes - before}
    effect, largest = subject.whole - units.empty, max(abs(unit.value) for unit in units.units)
    found = {
        "parts": [_part(cut, units, known[cut.input]) for cut in cuts],
        "explained": sum(unit.value for unit in units.units) / effect if abs(effect) > max(largest, SMALL) else None,
        "check": None if checked is None else {**asdict(checked), "margin": checked.margin, "better": checked.better, "needed": NEEDED},
        "notes": [_verdict(checked, len(units.units))],
        "previews": previews_of(subject, cuts),
    }
    return found, passes


def _part(cut: Cut, units: Map, baseline: Baseline) -> dict[str, Any]:
    own = sorted((unit for unit in units.units if unit.cut is cut), key=lambda unit: unit.region)
    described = [{**cut.describe(unit.region), "value": unit.value} for unit in own]
    fill = {"code": baseline.fill.code, "rows": baseline.fill.rows}
    about = {"input": cut.input, "item": cut.item, "kind": cut.kind, "baseline": str(baseline.fill), "fill": fill}
    return {**about, **cut.about(), "units": described}


def _verdict(checked: Check | None, parts: int) -> str:
    if checked is None:
        return f"not checked against random orders: {parts} part(s) are too few, or none of them changes anything"
    figures = f"{checked.margin:+.2f} of the area between deletion and insertion curves; {NEEDED:.2f} needed"
    if checked.better:
        return f"better than random orders of the same {checked.parts} parts ({figures})"
    return f"explanation not better than random on this model ({figures}): read the parts as indicative"
