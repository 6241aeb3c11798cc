"""Components are found by their file name: `fusion/co_attention.py` is `co_attention` in a recipe.

There is no registry. `find("fusion", "late")` imports `chiasm.fusion.late` and returns the one public class that the module
defines on its folder's base class; `package.module:Class` names a class from outside. A wrong name is answered with the close ones.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from chiasm.types import RecipeError

FOLDERS = {
    "modality": "chiasm.media",
    "source": "chiasm.data.sources",
    "encoder": "chiasm.encoders",
    "connector": "chiasm.connectors",
    "backbone": "chiasm.backbones",
    "fusion": "chiasm.fusion",
    "task": "chiasm.tasks",
    "metric": "chiasm.metrics",
}


def names(kind: str) -> list[str]:
    """All component names of a kind, in order. A folder's `base.py` and files starting with `_` are not components."""
    package = importlib.import_module(FOLDERS[kind])
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)
    return sorted(n for n in found if n != "base" and not n.startswith("_") and component_in(kind, n))


def find(kind: str, name: str) -> Any:
    """The class called `name`; RecipeError names the nearest where there is none."""
    if ":" in name:
        return _outside(kind, name)
    if name.isidentifier() and name in names(kind):
        return component_in(kind, name)
    raise RecipeError(f"unknown {kind} '{name}'{did_you_mean(name, names(kind))}")


def component_in(kind: str, name: str) -> Any:
    """The component class that module `name` of the kind's folder defines, or None where it defines none."""
    module = importlib.import_module(f"{FOLDERS[kind]}.{name}")
    base = base_class(kind)
    own = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and c.__module__ == module.__name__ and issubclass(c, base) and not c.__name__.startswith("_")
    ]
    assert len(own) <= 1, f"{module.__name__} defines several {kind}s: {own}"
    return own[0] if own else None


def base_class(kind: str) -> Any:
    """The contract of a kind: the class named like it (`Fusion`, `Encoder`, ...) in the folder's `base.py`."""
    return getattr(importlib.import_module(f"{FOLDERS[kind]}.base"), kind.title())


def _outside(kind: str, name: str) -> Any:
    module_name, _, class_name = name.partition(":")
    try:
        module: ModuleType = importlib.import_module(module_name)
    except ImportError as error:
        raise RecipeError(f"{kind} '{name}': cannot import {module_name} ({error})") from None
    if not hasattr(module, class_name):
        classes = [n for n, c in vars(module).items() if inspect.isclass(c)]
        raise RecipeError(f"{kind} '{name}': {module_name} has no {class_name}{did_you_mean(class_name, classes)}")
    found = getattr(module, class_name)
    if not (inspect.isclass(found) and issubclass(found, base_class(kind))):
        raise RecipeError(f"{kind} '{name}' is not a {kind}: it must be a class built on {base_class(kind).__module__}.{kind.title()}")
    return found


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The tail of an error message: `; did you mean 'x'?`, or the whole list where it is short, or nothing."""
    known = sorted(set(known))
    close = closest(word, known, cutoff=cutoff)
    if close:
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name nearest to `word`, ignoring case, hyphens and underscores."""
    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(_fold(name), name)
    match = difflib.get_close_matches(_fold(word), list(folded), n=1, cutoff=cutoff)
    return folded[match[0]] if match else None


def _fold(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")
