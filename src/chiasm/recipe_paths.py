"""Makes the data files of a recipe absolute, so that a run finds them from any folder.

A path in a recipe starts from the recipe's folder, one on the command line from the current folder. What is not there is left as it is: a
data set's name, or a path that starts from `data.root`, or a mistake that opening the data will report.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        if isinstance(holder.get(key), str):
            holder[key] = _absolute(holder[key], folder)


def _places(section: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every (mapping, key) that may hold a path."""
    further = section.get("splits")
    holders = [(section, name) for name in SPLITS]
    holders += [(further, name) for name in further] if isinstance(further, dict) else []
    for holder, name in holders:
        yield holder, name
        if isinstance(holder.get(name), dict):
            yield holder[name], "file"
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
