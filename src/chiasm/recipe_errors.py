"""Says in one line each what is wrong with a recipe: the place, the key, the value, what is allowed, and the nearest right thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from chiasm.components import closest
from chiasm.recipe_schema import keys_of, model_at, sections
from chiasm.recipe_yaml import Document, Path
from chiasm.types import RecipeError

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "mapping": "a mapping",
}
BOUNDS = {"greater_than_equal": (">=", "ge"), "greater_than": (">", "gt"), "less_than_equal": ("<=", "le"), "less_than": ("<", "lt")}


class RecipeProblems(RecipeError):
    """Everything that is wrong with a recipe; as text, the first problem and how many more there are."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        more = len(self.problems) - 1
        super().__init__(self.problems[0] + (f" (and {more} more; `chiasm check` shows all)" if more else ""))


def explain(error: ValidationError, document: Document, root: type[BaseModel], *, at: Path = ()) -> list[str]:
    """pydantic's errors about the section `at` as one line per place in the recipe, in the recipe's order."""
    grouped: dict[Path, list[Mapping[str, Any]]] = {}
    for item in error.errors():
        grouped.setdefault((*at, *_path_in(_value_at(document.data, at), item)), []).append(item)
    paths = [path for path in grouped if not any(other != path and other[: len(path)] == path for other in grouped)]
    order = list(document.places)
    paths.sort(key=lambda path: next((order.index(path[:n]) for n in range(len(path), 0, -1) if path[:n] in document.places), len(order)))
    return [document.line(path, _sentence(path, grouped[path], document, root)) for path in paths]


def dotted(path: Path) -> str:
    """("stages", 0, "steps") -> "stages.0.steps"."""
    return ".".join(map(str, path))


def unknown_key(path: Path, known: Iterable[str], root: type[BaseModel]) -> str:
    """`unknown key train.learnig_rate; did you mean ...?`: the nearest key here, or the section that an alien key belongs to."""
    *parents, key = path
    known = sorted(set(known))
    here, text = closest(str(key), known), f"unknown key {dotted(path)}"
    homes = _homes(str(key), here, root)
    if homes and homes[0] == key:
        return f"{text}; {key} belongs to {' or '.join(homes[1:])}"
    if homes:
        return f"{text}; did you mean {' or '.join(f'{home}.{homes[0]}'.lstrip('.') for home in homes[1:])}?"
    if here:
        return f"{text}; did you mean {dotted((*parents, here))}?"
    return f"{text}; known: {', '.join(known)}" if known else text


def not_allowed(path: Path, value: Any, allowed: Iterable[str]) -> str:
    """`fusion.type: 'lates' is not allowed; did you mean 'late'? (early, late, ...)`."""
    allowed = list(allowed)
    near = closest(str(value), allowed)
    return (
        f"{dotted(path)}: {_short(value)} is not allowed; "
        + (f"did you mean '{near}'? " if near else "")
        + f"allowed: {', '.join(allowed)}"
    )


def _homes(key: str, here: str | None, root: type[BaseModel]) -> list[str]:
    """[key, section, ...] where another section has this key, or one clearly nearer than `here`; else []."""
    elsewhere: dict[str, list[str]] = {}
    for name, model in sections(root):
        for known in keys_of(model):
            elsewhere.setdefault(known, []).append(name or "the top level")
    near = closest(key, elsewhere, cutoff=0.75)
    if near is None or near == here or _likeness(key, near) <= _likeness(key, here or "") + 0.1:
        return []
    return [near, *dict.fromkeys(elsewhere[near])]


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower().replace("-", "_"), b).ratio()


def _path_in(data: Any, item: Mapping[str, Any]) -> Path:
    """pydantic's location without the names of union branches: what is really in the data, plus a missing key."""
    path: list[str | int] = []
    location = item["loc"]
    for i, element in enumerate(location):
        inside = (isinstance(data, Mapping) and element in data) or (
            isinstance(data, list) and isinstance(element, int) and element < len(data)
        )
        if inside:
            path.append(element)
            data = data[element]
        elif item["type"] == "missing" and i == len(location) - 1:
            path.append(element)
    return tuple(path)


def _sentence(path: Path, items: Sequence[Mapping[str, Any]], document: Document, root: type[BaseModel]) -> str:
    first = items[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        model = model_at(root, path[:-1])
        return unknown_key(path, keys_of(model) if model else (), root)
    if kind == "missing":
        return f"{dotted(path)} is missing"
    if kind == "value_error":
        return f"{dotted(path)}: {first['ctx']['error']}"
    if kind == "too_short":
        return f"{dotted(path)} is empty; it needs at least one entry"
    if first["loc"] and first["loc"][-1] == "[key]":
        return f"{dotted(path)}: a name has letters, digits and _ only, and starts with a letter"
    value = _value_at(document.data, path)
    words = [word for item in items if item["type"] == "literal_error" for word in _words(item)]
    near = closest(value, words) if isinstance(value, str) else None
    allowed = list(dict.fromkeys(_allowed(item) for item in items))
    return (
        f"{dotted(path)}: {_short(value)} is not allowed; "
        + (f"did you mean '{near}'? " if near else "")
        + f"allowed: {' or '.join(allowed)}"
    )


def _allowed(item: Mapping[str, Any]) -> str:
    """What one of pydantic's errors would have accepted."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "literal_error":
        return ", ".join(_words(item))
    if kind in BOUNDS:
        sign, name = BOUNDS[kind]
        return f"a number {sign} {context[name]:g}"
    if kind == "string_pattern_mismatch":
        return "letters, digits, _ and - (a letter first)"
    if kind in ("model_type", "model_attributes_type"):
        return "a mapping"
    if kind == "int_from_float":
        return "a whole number"
    return KINDS.get(kind.removesuffix("_type").removesuffix("_parsing"), item["msg"])


def _words(item: Mapping[str, Any]) -> list[str]:
    expected: str = item["ctx"]["expected"]
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(", ")]


def _value_at(data: Any, path: Path) -> Any:
    """The value at `path`; None where a shorthand or a default stands for it."""
    for element in path:
        inside = (isinstance(data, Mapping) and element in data) or (isinstance(data, list) and isinstance(element, int))
        data = data[element] if inside else None
    return data


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
