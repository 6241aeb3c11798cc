"""The door for checkpoints that others made: transformers opens them, and what is amiss is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from safetensors import SafetensorError

from chiasm.components import did_you_mean
from chiasm.model import without_bars
from chiasm.types import RecipeError

WEIGHTS = {"output_loading_info": True, "use_safetensors": True, "ignore_mismatched_sizes": True}  # what is amiss is refused here, by name


def from_checkpoint(kind: Any, where: str, part: str, **settings: Any) -> Any:
    """`kind.from_pretrained(where)`; why transformers cannot is told in one line."""
    try:
        with without_bars():
            return kind.from_pretrained(where, **settings)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(f"{part}.model {where}: {reason}") from None


def refuse_missing(part: str, where: str, keys: Sequence[str], unexpected: Iterable[str]) -> None:
    """RecipeError where there are `keys` that the checkpoint does not have; `unexpected` are those that it has instead."""
    if keys:
        near = did_you_mean(keys[0], unexpected)
        raise RecipeError(f"{part}.model {where}: {len(keys)} weight(s) are not in the checkpoint, first '{keys[0]}'{near}")


def refuse_shape(part: str, where: str, key: str, want: Sequence[int], have: Sequence[int]) -> None:
    raise RecipeError(f"{part}.model {where}: weight '{key}' is {tuple(have)} in the checkpoint and {tuple(want)} in the model")
