"""The recipes that come with Chiasm, found and listed without typer or torch: `chiasm recipes` answers at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from chiasm_cli.output import next_step, result


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
    next_step(
        "chiasm recipes copy NAME   a copy to change",
        "chiasm train NAME          train it as it is",
        "chiasm recipes fusions     the ways to fuse",
    )


def files() -> list[Path]:
    """The shipped recipes: inside the package where it is installed, at the top of a checkout else."""
    package = library()
    folder = package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"
    return sorted(folder.glob("*.yaml"))


def library() -> Path:
    """The folder of the package chiasm, which is not imported."""
    spec = importlib.util.find_spec("chiasm")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


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
