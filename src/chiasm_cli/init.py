"""`chiasm init`: a table or folder of own data -> a recipe to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.output import next_step, result


def init(
    data: Annotated[Path, typer.Argument(help="A table (jsonl, csv, parquet), or a folder with one.")],
    target: Annotated[str | None, typer.Option(help="The column to predict.")] = None,
) -> None:
    """Look at data and print a recipe for it: chiasm init DATA > recipe.yaml."""
    import chiasm

    text = chiasm.init(data, target=target)
    result({"recipe": text}, text.rstrip("\n"))
    next_step("chiasm check recipe.yaml", "chiasm train recipe.yaml")
