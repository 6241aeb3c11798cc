"""Sets `key=value` overrides in a recipe's data before it is checked, e.g. `stages.0.steps=10` or `stages.finetune.steps=10`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from chiasm.components import closest, did_you_mean
from chiasm.recipe_schema import model_at
from chiasm.recipe_yaml import Document, Path, parse_value
from chiasm.types import RecipeError


def apply_overrides(document: Document, overrides: Sequence[str], root: type[BaseModel]) -> None:
    """Change `document.data` in place; what a wrong key or value is, the recipe's own check says, with the override as its place."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"'{override}' is not an override; write key=value, e.g. train.seed=1")
        place = f"override {override}"
        value = parse_value(text, place)
        path = _set(document.data, key.strip().split("."), value, place, root)
        document.typed[path] = key.strip()
        document.places = {known: where for known, where in document.places.items() if known[: len(path)] != path}
        document.places[path] = place


def _set(data: dict[str, Any], keys: list[str], value: Any, place: str, root: type[BaseModel]) -> Path:
    """Set the value at `keys`, making the sections on the way; returns where it stands."""
    path: Path = ()
    here: Any = data
    for i, key in enumerate(keys):
        typed = ".".join(keys[: i + 1])
        step = _element(here, key, typed, place)
        if i == len(keys) - 1:
            here[step] = value
            return (*path, step)
        _refuse_near_miss(here, step, path, f"{place}: no {typed}", root)
        path = (*path, step)
        here = _descend(here, step, path, f"{place}: {typed}", root)
    raise AssertionError("a key has at least one part")


def _element(here: Any, key: str, typed: str, place: str) -> str | int:
    """A key of a mapping, or the index of a list's item by number or by name."""
    if isinstance(here, dict):
        return key
    unnamed = ["main"] if len(here) == 1 else [str(i) for i in range(len(here))]  # a single stage is called so
    names = [str(item.get("name", word)) if isinstance(item, dict) else word for item, word in zip(here, unnamed, strict=True)]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(here):
        return int(key)
    numbered = ", ".join(f"{i} ({name})" if name != str(i) else name for i, name in enumerate(names))
    near = closest(key, names)
    section = typed.removesuffix(f".{key}")
    raise RecipeError(f"{place}: no {typed}; " + (f"did you mean {section}.{near}?" if near else f"there are {numbered}"))


def _refuse_near_miss(here: Any, step: str | int, path: Path, refusal: str, root: type[BaseModel]) -> None:
    """`tasks.anser.weight=2` is a typo where there is a task `answer`; it would make a second task."""
    named_section = model_at(root, path) is None
    if named_section and isinstance(here, dict) and step not in here and closest(str(step), here):
        raise RecipeError(f"{refusal}{did_you_mean(str(step), here)}")


def _descend(here: Any, step: str | int, path: Path, key: str, root: type[BaseModel]) -> Any:
    """The mapping or list at `path`; a bare word becomes its section, a missing section an empty one."""
    inner = here.get(step) if isinstance(here, dict) else here[step]
    if path == ("stages",) and not isinstance(inner, list):
        inner = [inner or {}]
    elif isinstance(inner, str) and (word := getattr(model_at(root, path), "shorthand", "")):
        inner = {word: inner}
    elif inner is None:
        inner = {}
    if not isinstance(inner, dict | list):
        raise RecipeError(f"{key} is {inner!r}, which has no keys of its own")
    here[step] = inner
    return inner
