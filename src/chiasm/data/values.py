"""How values of columnar files look as raw parts: media stored as {"bytes", "path"} become bytes or a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """A nested value as a raw part: the Hub's {"bytes", "path"} is its bytes, or its path where it has no bytes; also inside lists."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        if value.keys() == {"bytes", "path"}:
            return value["bytes"] if value["bytes"] is not None else value["path"]
        return {k: plain(v) for k, v in value.items()}
    return value
