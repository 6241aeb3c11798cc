"""`chiasm recipes`: the recipes that come with Chiasm. Reads their first lines only; no torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.output import next_step, result

app = typer.Typer(
    help="List, show or copy the recipes that come with Chiasm.", invoke_without_command=True, rich_markup_mode=None, add_completion=False
)
Name = Annotated[str, typer.Argument(help="The recipe's name, as `chiasm recipes` lists it.")]


@app.callback()
def default(context: typer.Context) -> None:
    """List them, where no command is given."""
    if context.invoked_subcommand is None:
        list_recipes()


@app.command("list")
def list_recipes() -> None:
    """List the recipes by group."""
    found = [{"name": file.stem, **headline(file)} for file in files()]
    groups = dict.fromkeys(recipe["group"] for recipe in found)
    width = max((len(recipe["name"]) for recipe in found), default=0)
    lines: list[str] = []
    for group in groups:
        lines += [*([""] if lines else []), f"{group}:"]
        lines += [f"  {recipe['name']:<{width}}  {recipe['description']}" for recipe in found if recipe["group"] == group]
    result(found, lines)
    next_step("chiasm recipes copy NAME   a copy to change", "chiasm train NAME          train it as it is")


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


def files() -> list[Path]:
    """The shipped recipes: inside the package where it is installed, at the top of a checkout else. Does not import chiasm."""
    spec = importlib.util.find_spec("chiasm")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    folder = package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"
    return sorted(folder.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a shipped recipe; an error that names the nearest."""
    import difflib

    known = {file.stem: file for file in files()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise typer.BadParameter(f"no recipe '{name}'" + (f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(known)}"))
    return known[name]


def headline(file: Path) -> dict[str, str]:
    """{"description", "group"}: a recipe's first comment line, and its `# group:` line."""
    comments = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("#"):
                break
            comments.append(line.lstrip("#").strip())
    described = [comment for comment in comments if comment and not comment.startswith("group:")]
    groups = [comment.removeprefix("group:").strip() for comment in comments if comment.startswith("group:")]
    return {"description": described[0] if described else "", "group": groups[0] if groups else "recipes"}
