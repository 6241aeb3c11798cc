#!/usr/bin/env python3
"""Writes docs/recipe.md from the recipe's own types and the components' Options: every key with its type, default and help."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from chiasm import components, recipe

TARGET = Path(__file__).resolve().parent.parent / "docs" / "recipe.md"
INTRO = """# Every key of a recipe

This file is made by `scripts/write_recipe_docs.py` from the types that check a recipe; do not edit it.

A recipe is one YAML file. A key that is not listed here is an error that names the nearest one. On the command line any key is set by
`key=value`: `train.seed=1`, `stages.0.steps=10`, or `stages.NAME.steps=10`. `chiasm check RECIPE` says all that is wrong with a recipe.
A run folder holds its recipe with every default filled in (`recipe.yaml`).

`NAME:tiny` is a recipe in its small form: each key of its section `tiny` (a key with its dots, e.g. `backbone.n_layer: 2`) replaces what
stands there. Every shipped system has both: pretrained weights on your data, and fresh ones on built-in data in minutes on a CPU.
"""
SECTIONS = [  # (the key's place in a recipe, its type)
    ("", recipe.Recipe),
    ("inputs.NAME", recipe.InputSpec),
    ("encoders.NAME", recipe.EncoderSpec),
    ("encoders.NAME.connector", recipe.ConnectorSpec),
    ("backbone", recipe.BackboneSpec),
    ("backbone.tokenizer", recipe.TokenizerSpec),
    ("encoders.NAME.train.lora, backbone.train.lora", recipe.Lora),
    ("fusion", recipe.FusionSpec),
    ("tasks.NAME", recipe.TaskSpec),
    ("data", recipe.DataSpec),
    ("data.SPLIT", recipe.SplitSpec),
    ("data.join, data.SPLIT.join", recipe.JoinSpec),
    ("stages.N", recipe.StageSpec),
    ("train", recipe.TrainSpec),
    ("train.balance", recipe.BalanceSpec),
]
KINDS = [  # (component, the key that names it)
    ("modality", "inputs.NAME.modality"),
    ("encoder", "encoders.NAME.type"),
    ("connector", "encoders.NAME.connector.type"),
    ("backbone", "backbone.kind"),
    ("fusion", "fusion.type"),
    ("task", "tasks.NAME.type"),
]


def main() -> None:
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")


def render() -> str:
    """The whole file."""
    parts = [INTRO, "## Sections\n"]
    for place, model in SECTIONS:
        parts += [f"### {f'`{place}`' if place else 'The top'}\n", doc(model), table(model)]
        if issubclass(model, recipe.OpenSpec):
            parts.append("Other keys here are the component's own; see below.\n")
    parts += [
        "## Components\n",
        "The keys that a component adds to the section that names it. `my_package.module:Class` names one of your own.\n",
    ]
    for kind, place in KINDS:
        parts.append(f"### `{place}`\n")
        for name in components.names(kind):
            component = components.find(kind, name)
            parts += [f"#### {kind} `{name}`\n", doc(component), table(component.Options)]
            parts += [text for field, model in nested(component.Options) for text in (f"`{field}`:\n", table(model))]
    rows = [f"| `{name}` | {cell(doc(components.find('metric', name)))} |" for name in components.names("metric")]
    parts += ["### `tasks.NAME.metrics`\n", "\n".join(["| metric | is |", "|---|---|", *rows])]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def doc(model: type) -> str:
    return inspect.cleandoc(model.__doc__ or "")


def table(model: type[BaseModel]) -> str:
    """A model's keys as a table; nothing where it has none."""
    rows = [
        f"| `{name}` | {cell(described(field))} | {cell(default(field))} | {cell(field.description or '')} |"
        for name, field in model.model_fields.items()
        if name != "options"
    ]
    return "\n".join(["| key | type | default | help |", "|---|---|---|---|", *rows]) + "\n" if rows else ""


def nested(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The keys of a component's Options that are sections themselves."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def described(field: FieldInfo) -> str:
    return shown(field.annotation) + limits(field.metadata)


def shown(kind: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return shown(inner[0]) + limits(inner[1:])
    if origin is Literal:
        return " or ".join(str(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(shown(option) for option in inner if option is not type(None))
    if origin is tuple and Ellipsis not in inner:
        return f"[{', '.join(map(shown, inner))}]"
    if origin in (list, tuple):
        return f"list of {shown(inner[0])}"
    if origin is dict:
        return "mapping" if inner[1] is Any else f"mapping of name to {shown(inner[1])}"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(kind) or section_name(kind)


def section_name(kind: Any) -> str:
    known = {model: place for place, model in SECTIONS}
    if kind is recipe.LoraTrain:
        return "{lora: {...}}"
    return f"section `{known[kind]}`" if kind in known else "section (below)"


def limits(metadata: Any) -> str:
    """The bounds of a number, in words."""
    words = {annotated_types.Ge: "ge", annotated_types.Gt: "gt", annotated_types.Le: "le", annotated_types.Lt: "lt"}
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    plain = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
    found = [f"{signs[key]} {getattr(limit, key):g}" for limit in plain for cls, key in words.items() if isinstance(limit, cls)]
    return f" ({', '.join(found)})" if found else ""


def default(field: FieldInfo) -> str:
    """A key's default as YAML would have it."""
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or (isinstance(value, list) and value and isinstance(value[0], BaseModel)):
        return "its own defaults"
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
