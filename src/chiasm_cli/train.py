"""`chiasm train`: a recipe -> a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from chiasm_cli.output import next_step, result, settings
from chiasm_cli.scores import score_table

Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe, e.g. stages.0.steps=10.", metavar="key=value")]


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one of `chiasm recipes`.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder; runs/NAME where not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    allow_changed: Annotated[bool, typer.Option("--allow-changed", help="Resume with other data or another seed.")] = False,
) -> None:
    """Train a model, evaluate it, and write both to a run folder."""
    import chiasm

    run = chiasm.train(
        recipe, output=output, resume=resume, allow_changed=allow_changed, overrides=overrides or [], progress=not settings["json"]
    )
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes the first speaks
    result({"run": str(run.folder), "metrics": run.metrics}, [*score_table(run.metrics, run.details), f"wrote {run.folder}"])
    next_step(f"chiasm evaluate {run.folder}", asking(run), f"open {run.folder}/report.html")


def asking(run: Any) -> str:
    """How to use a run: one question, or a file of records where the command line has no option for an input."""
    inputs = {name: spec.modality for name, spec in run.recipe.inputs.items()}
    if not set(inputs.values()) <= {"image", "audio", "video", "text"}:
        return f"chiasm predict {run.folder} INPUT.jsonl --output OUT.jsonl"
    asked = {"question": '"question"', "image": "--image FILE", "audio": "--audio FILE", "video": "--video FILE"}
    return " ".join([f"chiasm ask {run.folder}", *(asked.get(name, f"--input {name}=VALUE") for name in inputs)])
