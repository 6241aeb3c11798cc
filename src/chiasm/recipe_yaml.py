"""Reads recipe text: YAML with the number rules of YAML 1.2, a place (file and line) for every key, and `key=value` overrides.

What differs from plain PyYAML: `3e-4` is a float, `on` and `no` stay text, a key given twice is an error, keys are always text, and
there are no aliases, tags or dates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from chiasm.types import RecipeError

Path = tuple[str | int, ...]  # where a value stands in a recipe, e.g. ("stages", 0, "steps")

_RESOLVERS = [
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # none of YAML 1.1's

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, f"write the value of *{event.anchor} out: a recipe has no aliases", event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))


@dataclass
class Document:
    """A recipe as plain data, and the place of every key for messages. None of it counts in a comparison of recipes."""

    data: Any = field(compare=False)
    file: str = field(default="", compare=False)
    places: dict[Path, str] = field(default_factory=dict, compare=False)
    typed: dict[Path, str] = field(default_factory=dict, compare=False)  # what overrides set -> the key as typed
    small: str = field(default="", compare=False)  # the name of the recipe's small form, where it has one and this is not it

    def place(self, path: Path) -> str:
        """`recipes/x.yaml:14` of the key, else of one below it (an override can make a section), else of the nearest above it."""
        below = (where for known, where in self.places.items() if path and known[: len(path)] == path)
        if where := self.places.get(path) or next(below, None):
            return where
        for n in range(len(path) - 1, -1, -1):
            for above in (path[:n], tuple(p for p in path[:n] if not isinstance(p, int))):  # stages may be written without a list
                if above in self.places:
                    return self.places[above]
        return self.file

    def line(self, path: Path, text: str) -> str:
        """`place: text`; a stage that an override called by its name is called so in the text too, not by its number."""
        for known, typed in self.typed.items():
            numbered = [n for n, key in enumerate(known, 1) if isinstance(key, int)] if known[: len(path)] == path[: len(known)] else []
            for n in numbered:
                name = ".".join(typed.split(".")[:n])
                text = re.sub(rf"\b{re.escape('.'.join(map(str, known[:n])))}\b", lambda _, name=name: name, text)
        return f"{self.place(path)}: {text}"


def read_document(file: FilePath | str) -> Document:
    """Read a recipe file; RecipeError in one line where it cannot be read."""
    file = FilePath(file)
    if file.is_dir():
        raise RecipeError(f"{file} is a folder; give a recipe file, e.g. {file}/recipe.yaml")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise RecipeError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    return parse_document(text, str(file))


def parse_document(text: str, file: str = "recipe") -> Document:
    """Text -> Document. A syntax error names file:line:column."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = Document({}, file)
        if node is not None:
            document.data = _plain(node, (), document, loader)
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise RecipeError(f"{where}: {_one_line(error.problem or error.context or 'not YAML')}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{file}: not YAML: {_one_line(str(error))}") from None
    finally:
        if loader is not None:
            loader.dispose()


def parse_value(text: str, place: str) -> Any:
    """The value of a `key=value` override: YAML in [], {} or quotes, else one word or text by the same rules as the file.

    `{question} answer :` is a prompt, not a mapping.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'") and not re.match(r"\{[^{}:,]+\}", text):
        return parse_document(text, place).data
    tag = _Loader("").resolve(yaml.ScalarNode, text, (True, False))
    return _plain(yaml.ScalarNode(tag, text), (), Document({}), _Loader(""))


def dump(data: Any) -> str:
    """Plain data -> YAML text that reads back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=140, allow_unicode=True)


def _plain(node: yaml.Node, path: Path, document: Document, loader: _Loader) -> Any:
    """A node as dict, list, str, int, float, bool or None; notes the place of every key on the way."""
    kind = node.tag.rpartition(":")[2]
    if kind not in ("map", "seq", "str", "int", "float", "bool", "null"):
        raise ConstructorError(None, None, f"the tag {node.tag} is not allowed", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a plain word", mark)
            key = key_node.value
            if key in data:
                raise ConstructorError(None, None, f"key {'.'.join(map(str, (*path, key)))} is given twice", mark)
            document.places[(*path, key)] = f"{document.file}:{mark.line + 1}"
            data[key] = _plain(value_node, (*path, key), document, loader)
        return data
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            document.places[(*path, i)] = f"{document.file}:{item.start_mark.line + 1}"
        return [_plain(item, (*path, i), document, loader) for i, item in enumerate(node.value)]
    if kind == "str":
        return node.value
    if kind == "int":
        return int(node.value, 0) if node.value[:2] in ("0o", "0x") else int(node.value)
    return loader.construct_object(node)


def _one_line(text: str) -> str:
    return " ".join(text.split())
