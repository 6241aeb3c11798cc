"""`chiasm recipes`: the recipes that come with Chiasm. Reads their first lines only; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.fusions import list_fusions
from chiasm_cli.output import next_step, result
from chiasm_cli.shelf import files, list_recipes

app = typer.Typer(
    help="List, show or copy the recipes that come with Chiasm; list the fusions.",
    invoke_without_command=True,
    rich_markup_mode=None,
    add_completion=False,
)
Name = Annotated[str, typer.Argument(help="The recipe's name, as `chiasm recipes` lists it.")]


@app.callback()
def default(context: typer.Context) -> None:
    """List them, where no command is given."""
    if context.invoked_subcommand is None:
        list_recipes()


app.command("list")(list_recipes)
app.command("fusions")(list_fusions)


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    text = find(name).read_text(encoding="utf-8")
    result({"name": name, "recipe": text}, text.rstrip("\n"))


@app.command()
def copy(
    name: Name, to: Annotated[Path | None, typer.Option("--output", "-o", help="The new file; NAME.yaml where not given.")] = None
) -> None:
    """Copy a recipe into the current folder, to change it."""
    target = to or Path(f"{name}.yaml")
    text = find(name).read_text(encoding="utf-8")
    if target.exists():
        raise typer.BadParameter(f"{target} exists already; name another file with --output")
    target.write_text(text, encoding="utf-8")
    result({"name": name, "file": str(target)}, f"wrote {target}")
    next_step(f"chiasm check {target}", f"chiasm train {target}")


def find(name: str) -> Path:
    """The file of a shipped recipe; an error that names the nearest."""
    import difflib

    known = {file.stem: file for file in files()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise typer.BadParameter(f"no recipe '{name}'" + (f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(known)}"))
    return known[name]
