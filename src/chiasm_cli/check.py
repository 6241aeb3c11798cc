"""`chiasm check`: everything that can be known before anything is spent."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from chiasm_cli.output import next_step, result
from chiasm_cli.train import Overrides


def check(
    target: Annotated[str, typer.Argument(help="A recipe (file or name), or data (a table or folder).", metavar="RECIPE|DATA")],
    overrides: Overrides = None,
) -> None:
    """Check a recipe, its data and what training would cost, without training. Prints all problems, not the first."""
    import chiasm

    found = chiasm.check(target, overrides=overrides or [])
    result(found.to_json(), [*found.lines, *(f"problem: {problem}" for problem in found.problems)])
    if found.problems:
        raise typer.Exit(2)
    next_step(shlex.join(["chiasm", "train", target, *(overrides or [])]) if found.is_recipe else f"chiasm init {target} > recipe.yaml")
