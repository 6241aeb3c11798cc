"""RUN/report.html: one self-contained page with everything a run found. No script, nothing from outside; light and dark, screen and phone.

The page is `report.html.j2`; this file only gathers what it shows.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from chiasm.evaluation.result import write_text
from chiasm.report.curves import charts
from chiasm.report.run_files import RunFiles, read_run
from chiasm.report.scores import Cell, Row, TaskScores, control_names, split_scores

SHOWN_QUARANTINED = 50
PICTURES_FIRST = ("test", "test_new_pairs", "validation")  # splits in the order of interest


def write_report(
    run: str | Path,
    *,
    facts: Mapping[str, str] | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
    retrieval: Sequence[Mapping[str, Any]] = (),
    commands: Sequence[tuple[str, str]] | None = None,
) -> Path:
    """Write RUN/report.html from the run's files and return its path.

    `facts`: more lines for the header, e.g. {"Parameters": "1.0 M", "Device": "cpu"}.
    `samples`: {"image_png_bytes", "rows": [(question, answer, prediction, right)], "caption", "predicted_caption", "sound_wav_bytes",
    "title"}, each of which may be absent.
    `retrieval`: {"caption", "pictures": [(png_bytes, right)]} or {"image_png_bytes", "captions": [(text, right)]}, best first.
    `commands`: (what it does, command line); how to repeat the run, if not given.
    """
    files = read_run(run)
    path = files.folder / "report.html"
    write_text(path, render(files, facts=facts or {}, samples=samples, retrieval=retrieval, commands=commands))
    return path


def render(
    files: RunFiles,
    *,
    facts: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    retrieval: Sequence[Mapping[str, Any]],
    commands: Sequence[tuple[str, str]] | None = None,
) -> str:
    """The page as text."""
    splits = _splits(files)
    return page_template("report.html.j2").render(
        name=files.name,
        facts=_facts(files, facts),
        splits=splits,
        headlines=_headlines(splits),
        stages=_stages(files.recipe),
        charts=charts(files.log),
        samples=samples,
        retrieval=retrieval,
        data=_data(files),
        quarantine=files.quarantine[:SHOWN_QUARANTINED],
        quarantined=len(files.quarantine),
        commands=commands if commands is not None else default_commands(files.folder, splits),
        recipe=files.recipe_text,
        control_names=control_names,
    )


def page_template(name: str, package: str = "chiasm.report") -> Template:
    """A page's template, with the style that all pages share (style.css) and their filters."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(p, ".") for p in dict.fromkeys((package, "chiasm.report"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bar": bar, "data_uri": data_uri, "tone": verdict_tone, "ticks": ticks}
    return environment.get_template(name)


def bar(cell: Cell, row: Row) -> str:
    """Width of a cell's bar in percent."""
    return f"{100 * min(max((cell.value or 0.0) / row.scale, 0.0), 1.0):.1f}%"


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a `data:` address of media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def verdict_tone(verdict: str) -> str:
    """good, bad or plain: how a verdict is marked."""
    if verdict.startswith("uses"):
        return "good"
    return "bad" if verdict.startswith("no measurable") or "does harm" in verdict else "plain"


def ticks(text: str) -> list[tuple[bool, str]]:
    """A sentence cut at `code` marks: (is code, piece)."""
    return [(i % 2 == 1, piece) for i, piece in enumerate(text.split("`")) if piece]


def default_commands(folder: Path, splits: Sequence[tuple[str, Any, Any]]) -> list[tuple[str, str]]:
    """How to repeat the run and its figures."""
    again = [("Train it again", f"chiasm train {folder}/recipe.yaml --output {folder}-again")]
    return again + [(f"Evaluate on {name}", f"chiasm evaluate {folder} --split {name}") for name, *_ in splits]


def _splits(files: RunFiles) -> list[tuple[str, list[TaskScores], Mapping[str, Any]]]:
    order = sorted(files.metrics, key=lambda s: (PICTURES_FIRST.index(s) if s in PICTURES_FIRST else len(PICTURES_FIRST), s))
    return [(s, split_scores(files.metrics[s], files.details.get(s, {})), files.details.get(s, {})) for s in order]


def _headlines(splits: Sequence[tuple[str, list[TaskScores], Any]]) -> list[dict[str, str]]:
    """One tile per split and task."""
    found = [
        {"split": s, "task": t.task, "title": t.main.title, "value": t.main.real.text, "interval": t.main.real.interval}
        for s, ts, _ in splits
        for t in ts
    ]
    return found[:6]


def _facts(files: RunFiles, more: Mapping[str, str]) -> dict[str, str]:
    fusion = files.recipe.get("fusion") or {}
    found = {"When": files.when, "Steps": f"{files.steps:,}" if files.steps else "", "Training": duration(files.seconds)}
    found |= {"Fusion": str(fusion.get("type", "") if isinstance(fusion, Mapping) else fusion), **more}
    return {label: value for label, value in found.items() if value}


def duration(seconds: float) -> str:
    """45 s, 7 min 30 s, 2 h 05 min; empty for nothing."""
    seconds = math.ceil(seconds)
    if seconds < 60:
        return f"{seconds} s" if seconds else ""
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _stages(recipe: Mapping[str, Any]) -> list[dict[str, str]]:
    """What each stage learned and what trained in it."""
    found = []
    for number, stage in enumerate(recipe.get("stages") or [], 1):
        epochs, steps = stage.get("epochs"), stage.get("steps")
        long = f"{steps:,} steps" if steps else f"{epochs} epoch{'s' * (epochs != 1)}" if epochs else ""
        limit = stage.get("max_minutes")
        found.append(
            {
                "name": str(stage.get("name") or number),
                "length": ", ".join(part for part in (long, f"at most {limit} min" if limit else "") if part),
                "tasks": ", ".join(stage.get("tasks") or recipe.get("tasks") or []),
                "train": ", ".join(stage["train"]) if stage.get("train") else "everything",
                "rate": str(stage.get("learning_rate") or ""),
                "batch": str(stage.get("batch_size") or ""),
            }
        )
    return found


def _data(files: RunFiles) -> list[dict[str, Any]]:
    counts = ("read", "used", "quarantined", "filtered")
    return [
        {"split": split, **{c: row.get(c, 0) for c in counts}, "reasons": files.reasons(split), "notes": row.get("notes") or {}}
        for split, row in files.data.items()
    ]
