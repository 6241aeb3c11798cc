"""`chiasm data`: writes a built-in data set as plain files, which is also the example of what own data looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chiasm_cli.output import next_step, note, result

app = typer.Typer(help="Write a built-in data set as plain files.", rich_markup_mode=None, add_completion=False)


@app.callback()
def group() -> None:
    """Built-in data sets."""


@app.command()
def export(
    name: Annotated[Literal["scenes"], typer.Argument(help="The data set.")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    seed: Annotated[int, typer.Option(help="What is drawn depends on it alone.")] = 0,
    scenes: Annotated[int | None, typer.Option(min=1, help="Only the first scenes of every split.")] = None,
) -> None:
    """Write a data set as one jsonl table per split, beside its pictures and sounds, with a recipe."""
    from chiasm.data.scenes.export import export as write

    note(f"writing {name} to {folder} ...")
    counts = write(folder, seed=seed, scenes_per_split=scenes)
    result({"folder": str(folder), "records": counts}, [f"{split}: {count} records" for split, count in counts.items()])
    next_step(f"cat '{folder}/README.txt'", f"chiasm check '{folder}/recipe.yaml'", f"chiasm train '{folder}/recipe.yaml'")
