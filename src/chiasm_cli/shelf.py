"""The recipes that come with Chiasm, found and listed without typer or torch: `chiasm recipes` answers at once."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

from chiasm_cli.output import next_step, result


def list_recipes() -> None:
    """List the recipes by group."""
    found = [{"name": file.stem, **headline(file)} for file in files()]
    groups = sorted({(r["group"] != "start here", not r["tiny"], r["group"]) for r in found})  # then systems, then what else there is
    shown = {recipe["name"]: recipe["name"] + ("[:tiny]" if recipe["tiny"] else "") for recipe in found}
    width = max(map(len, shown.values()), default=0)
    lines: list[str] = []
    for *_, group in groups:
        lines += [*([""] if lines else []), f"{group}:"]
        lines += [f"  {shown[recipe['name']]:<{width}}  {recipe['description']}" for recipe in found if recipe["group"] == group]
    result(found, lines)
    next_step(
        "chiasm recipes copy NAME   a copy to change",
        "chiasm train NAME          train it as it is (data.train=YOUR.jsonl)",
        "chiasm train NAME:tiny     train its small form: fresh weights, built-in data, minutes on a CPU",
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


def headline(file: Path) -> dict[str, Any]:
    """{"description", "group", "tiny"}: a recipe's first comment line, its `# group:` line, and whether it has a small form."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("#").strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    described = [comment for comment in comments if comment and not comment.startswith("group:")]
    groups = [comment.removeprefix("group:").strip() for comment in comments if comment.startswith("group:")]
    small = any(line.startswith("tiny:") for line in lines)
    return {"description": (described or [""])[0], "group": (groups or ["recipes"])[0], "tiny": small}
