"""`chiasm demo`: trains on the built-in pictures and sounds, evaluates, and shows some answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.output import next_step, note, result, settings
from chiasm_cli.scores import score_table
from chiasm_cli.train import Overrides


def demo(
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder.")] = Path("runs/demo"),
) -> None:
    """Train the demonstration (some minutes on two cores) and show what it learned."""
    import chiasm

    note("The demo learns to answer written and spoken questions about small pictures that are drawn as it goes.")
    run = chiasm.train(
        "demo", output=output, resume=(output / "checkpoints").is_dir(), overrides=overrides or [], progress=not settings["json"]
    )
    result({"run": str(run.folder), "metrics": run.metrics}, [*score_table(run.metrics, run.details), "", *run.examples()])
    next_step(
        f"open {run.folder}/report.html",
        "chiasm data export scenes scenes --scenes 20   pictures and sounds as files",
        f"chiasm ask {run.folder} --image scenes/images/FILE 'what is in the picture ?'",
        "chiasm recipes",
    )
