"""Sets `key=value` overrides in a recipe's data before it is checked, e.g. `stages.0.steps=10` or `stages.finetune.steps=10`.

A recipe's `tiny:` section is such a list of changes: a key with its dots, and the value that stands there in the recipe's small form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from chiasm.components import closest, did_you_mean
from chiasm.recipe_schema import model_at
from chiasm.recipe_yaml import Document, Path, parse_value
from chiasm.types import RecipeError

TINY = "tiny"


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


def take_form(document: Document, form: str | None, root: type[BaseModel]) -> None:
    """Drop the section `tiny` of `document.data`; before that, apply it in place where `form` asks for it. A null takes a key out."""
    changes = document.data.pop(TINY, None)
    if changes is not None and not isinstance(changes, dict):
        raise RecipeError(f"{document.places[(TINY,)]}: {TINY} is a mapping of keys with their dots, e.g. `backbone.n_layer: 2`")
    if form is None:
        document.small = f"{document.data['name']}:{TINY}" if changes else ""
        return
    if form != TINY or not changes:
        forms = f"its only form is '{TINY}'" if changes else f"it has no section '{TINY}'"
        raise RecipeError(f"{document.file}: no form '{form}'; {forms}")
    document.data["name"] = f"{document.data['name']}-{form}"
    inside = {known[1:]: where for known, where in document.places.items() if known[:1] == (TINY,) and known[1:]}
    for key, value in changes.items():
        place = inside.get((key,), document.file)
        path = _set(document.data, key.split("."), value, f"{place}: {TINY}", root)
        document.places = {known: where for known, where in document.places.items() if known[: len(path)] != path}
        document.places |= {(*path, *rest): where for (first, *rest), where in inside.items() if first == key}
        if value is None:
            document.data.pop(key, None)


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
