"""`chiasm evaluate`: a run -> scores, with every input's controls beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.output import next_step, progress, result
from chiasm_cli.scores import score_table

Run = Annotated[Path, typer.Argument(help="A run folder.")]


def evaluate(
    run: Run,
    split: Annotated[str | None, typer.Option(help="A split of the recipe's data; test where not given.")] = None,
    data: Annotated[Path | None, typer.Option(help="A file of your own instead.")] = None,
) -> None:
    """Score a run on a split, also with each input shuffled and missing."""
    if split is not None and data is not None:
        raise typer.BadParameter("--split and --data exclude each other; keep one")
    import chiasm

    loaded = chiasm.load(run)
    found = loaded.evaluate(split or "test", data=data, progress=progress("evaluating"))
    name = str(data) if data is not None else split or "test"
    lines = [*score_table({name: found.metrics}, {name: found.to_json()}), *found.notes]
    result({name: found.to_json()}, lines)
    next_step(f"chiasm predict {run} INPUT.jsonl --output OUT.jsonl", f"open {run}/report.html")
