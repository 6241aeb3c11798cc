"""Finds recipe files, and makes the data files of a recipe absolute, so that a run finds them from any folder.

A path in a recipe starts from the recipe's folder, one on the command line from the current folder. What is not there is left as it is: a
data set's name, or a path that starts from `data.root`, or a mistake that opening the data will report.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chiasm.components import did_you_mean
from chiasm.types import RecipeError

SPLITS = ("train", "validation", "test")


def anchor(data: Any, folder: Path) -> None:
    """Change the paths under `data:` in place where they exist in `folder`."""
    section = data.get("data") if isinstance(data, dict) else None
    if not isinstance(section, dict):
        return
    if isinstance(section.get("root"), str):
        section["root"] = _absolute(section["root"], folder)
        return  # every other path starts from there
    for holder, key in _places(section):
        if isinstance(value := holder.get(key), str):
            holder[key] = _absolute(value, folder)
        elif isinstance(value, list):
            holder[key] = [_absolute(name, folder) if isinstance(name, str) else name for name in value]
        elif key == "mix" and isinstance(value, dict):
            holder[key] = {_absolute(name, folder): share for name, share in value.items()}


def _places(section: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every (mapping, key) that may hold a path; the splits of a built-in set are names."""
    names = section.get("builtin") is not None
    further = section.get("splits")
    holders = [(section, name) for name in SPLITS]
    holders += [(further, name) for name in further] if isinstance(further, dict) else []
    for holder, name in holders:
        if not names:
            yield holder, name
        if isinstance(holder.get(name), dict):
            if not names:
                yield holder[name], "file"
                yield holder[name], "mix"
            yield from _join(holder[name])
    yield from _join(section)


def _join(holder: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(holder.get("join"), dict):
        yield holder["join"], "file"


def _absolute(text: str, folder: Path) -> str:
    path = folder / text
    try:
        there = path.exists() or (any(sign in text for sign in "*?[") and any(folder.glob(text)))
    except (OSError, ValueError, NotImplementedError):  # no path at all
        return text
    return str(path.absolute()) if there else text


def recipe_folder() -> Path:
    """The folder of the shipped recipes: inside the package where it is installed, at the top of a checkout else."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def split_form(name: str) -> tuple[str, str | None]:
    """`clip:tiny` -> ("clip", "tiny"); a file whose own name has a colon, or a name without one, has no form."""
    stem, colon, form = name.rpartition(":")
    return (stem, form) if colon and form.isidentifier() and not Path(name).exists() else (name, None)


def find_recipe(name: str) -> Path:
    """A path as it is, or the file of a shipped recipe."""
    path = Path(name)
    shipped = {file.stem: file for file in recipe_folder().glob("*.yaml")}
    if path.is_file() or (path.exists() and name not in shipped):
        return path
    if name in shipped:
        return shipped[name]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        near = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(f"{name}: no such file{did_you_mean(path.name, near)}")
    raise RecipeError(f"no recipe file or shipped recipe '{name}'{did_you_mean(name, shipped)} (`chiasm recipes` lists them)")
