"""Looks into the recipe's types: which keys a place in a recipe has, and in which section a key belongs."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from chiasm.recipe_yaml import Path


def schema_at(root: type[BaseModel], path: Path) -> Any:
    """The annotation of the value at `path`; None where the types know no such place."""
    annotation: Any = root
    for element in path:
        annotation = _step(annotation, element)
    return annotation


def model_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The section class at `path`, where there is one."""
    return next((option for option in _alternatives(schema_at(root, path)) if _is_model(option)), None)


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a section knows."""
    return [name for name in model.model_fields if name != "options"]


def sections(model: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every (name, class) of a section below `model`, e.g. ("stages.N", StageSpec), outermost first."""
    yield name, model
    for key, field in model.model_fields.items():
        for option in _alternatives(field.annotation):
            here = f"{name}.{key}" if name else key
            if typing.get_origin(option) is dict:
                here, option = f"{here}.NAME", typing.get_args(option)[1]
            elif typing.get_origin(option) is list:
                here, option = f"{here}.N", typing.get_args(option)[0]
            for inner in _alternatives(option):
                if _is_model(inner):
                    yield from sections(inner, here)


def _step(annotation: Any, element: str | int) -> Any:
    for option in _alternatives(annotation):
        if _is_model(option) and element in option.model_fields:
            return option.model_fields[element].annotation
        if typing.get_origin(option) is dict:
            return typing.get_args(option)[1]
        if typing.get_origin(option) is list and isinstance(element, int):
            return typing.get_args(option)[0]
    return None


def _alternatives(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [inner for option in typing.get_args(annotation) for inner in _alternatives(option)]
    return [annotation]


def _is_model(option: Any) -> bool:
    return inspect.isclass(option) and issubclass(option, BaseModel)
