"""What the slots remember of the texts they write: keys and values of the backbone's attention, and what fusions keep of streams.

Rows 0 .. n - 1 are in use, without gaps: a row that ends is overwritten by the last. Nothing is copied per token.
Letters: S slots, n rows in use, H heads, C columns of a buffer, D width of a head, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from chiasm.types import Tokens

COLUMNS = 256  # of a fresh buffer


class Window:
    """Keys and values of every row's text, right-aligned: all rows end ahead of column `end`, row r begins `lengths[r]` columns earlier.

    A step writes one column. Where the last is reached, the window moves to the buffer's start, or to a buffer twice as long.
    """

    def __init__(self, slots: int):
        self.slots, self.end, self.lengths = slots, 0, []
        self.width = 0  # of the longest
        self.layers: list[Layer] = []
        self.mask = torch.zeros(slots, 0, dtype=torch.bool)

    @property
    def begin(self) -> int:
        return self.end - self.width

    def next(self) -> Tensor:
        """Ahead of a step: [n, width + 1] which columns hold a row's visible tokens, with room for the one that it writes."""
        if self.end == self.mask.shape[1]:
            self._move(self.width)
        self.mask[: len(self.lengths), self.end] = True
        return self.mask[: len(self.lengths), self.begin : self.end + 1]

    def add(self, cache: Cache, mask: Tensor, keep: list[int]) -> None:
        """Take in rows `keep` of texts that were just read: `mask` [R, T], padded on the left, and their cache."""
        length, first = mask.shape[1], len(self.lengths)
        own: Any = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        if not self.layers:
            self.layers = [Layer(self, old.keys, old.values) for old in own.layers]
            self.mask = torch.zeros(self.slots, 0, dtype=torch.bool, device=mask.device)
        if not first and length <= self.mask.shape[1]:
            self.end = length
        elif self.end < length:
            self._move(max(length, self.width))
        columns, rows, chosen = slice(self.end - length, self.end), slice(first, first + len(keep)), torch.tensor(keep, device=mask.device)
        self.mask[rows] = False
        self.mask[rows, columns] = mask[chosen]
        for layer, old in zip(self.layers, own.layers, strict=True):
            for buffer, given in ((layer.all_keys, old.keys), (layer.all_values, old.values)):
                buffer[rows] = 0  # hidden, but a NaN there would not be
                buffer[rows, :, columns] = given[chosen]
        starts = mask[chosen].int().argmax(1).tolist()
        self._measure(self.lengths + [length - start for start in starts])

    def advance(self) -> None:
        """A step wrote the column behind the window: it is part of it now."""
        self.end += 1
        self._measure([length + 1 for length in self.lengths])

    def remove(self, row: int) -> None:
        last = len(self.lengths) - 1
        if row != last:
            self.mask[row] = self.mask[last]
            for layer in self.layers:
                layer.all_keys[row], layer.all_values[row] = layer.all_keys[last], layer.all_values[last]
        self.lengths[row] = self.lengths[last]
        self._measure(self.lengths[:last])

    def cache(self, *, reads: bool) -> Cache:
        """As the backbone takes it; one that reads beside writing (GPT-2 with cross-attention) also keeps what it reads there."""
        own = Cache(layers=list(self.layers))
        return EncoderDecoderCache(own, DynamicCache()) if reads else own

    def _measure(self, lengths: list[int]) -> None:
        self.lengths, self.width = lengths, max(lengths, default=0)

    def _move(self, end: int) -> None:
        """Let the window end ahead of column `end`, with as much room behind it."""
        size = max(COLUMNS, self.mask.shape[1])
        while size < 2 * end:
            size *= 2
        old, new = slice(self.begin, self.end), slice(end - self.width, end)
        self.mask = moved(self.mask, old, new, size, 1)
        for layer in self.layers:
            layer.all_keys, layer.all_values = (moved(t, old, new, size, 2) for t in (layer.all_keys, layer.all_values))
        self.end = end


class Layer(DynamicLayer):
    """One layer of the window, as transformers' attention fills and reads it."""

    def __init__(self, window: Window, keys: Tensor, values: Tensor):
        super().__init__()
        self.window, self.is_initialized = window, True
        self.dtype, self.device = keys.dtype, keys.device
        self.all_keys, self.all_values = (t.new_zeros(window.slots, t.shape[1], 0, t.shape[3]) for t in (keys, values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[n, H, 1, D] -> the window's [n, H, width + 1, D]."""
        rows, begin, end = len(key_states), self.window.begin, self.window.end
        self.all_keys[:rows, :, end : end + 1] = key_states
        self.all_values[:rows, :, end : end + 1] = value_states
        return self.all_keys[:rows, :, begin : end + 1], self.all_values[:rows, :, begin : end + 1]

    def get_seq_length(self) -> int:
        return self.window.width


def moved(buffer: Tensor, old: slice, new: slice, size: int, dim: int) -> Tensor:
    """A buffer of `size` columns along `dim` that holds the columns `old` of another at `new`."""
    made = buffer.new_zeros([*buffer.shape[:dim], size, *buffer.shape[dim + 1 :]])
    place = (slice(None),) * dim
    made[(*place, new)] = buffer[(*place, old)]
    return made


class Bank:
    """A structure of tensors with rows in front (streams, with all that fusions and attention memoised in them), for every slot.

    The first rows that come in decide the structure; later ones must have the same, with sizes that may differ: they are padded with 0,
    which masks hide. It is forgotten when no row is left.
    """

    def __init__(self, slots: int):
        self.slots, self.rows = slots, 0
        self.structure: Any = None
        self.tensors: list[Tensor] = []

    def add(self, structure: Any, keep: list[int]) -> None:
        found: list[Tensor] = []
        mapped(structure, lambda tensor: found.append(tensor))
        if not self.rows:
            self.structure = structure
            self.tensors = [t.new_zeros(self.slots, *t.shape[1:]) for t in found]
        for number, (mine, new) in enumerate(zip(self.tensors, found, strict=True)):
            sizes = [max(pair) for pair in zip(mine.shape[1:], new.shape[1:], strict=True)]
            self.tensors[number] = mine = padded(mine, sizes)
            mine[self.rows : self.rows + len(keep)] = padded(new[keep], sizes)
        self.rows += len(keep)

    def remove(self, row: int) -> None:
        self.rows -= 1
        if row != self.rows:
            for tensor in self.tensors:
                tensor[row] = tensor[self.rows]
        if not self.rows:
            self.structure, self.tensors = None, []

    def view(self) -> Any:
        """The structure over the rows in use; what a step memoises in it beside what is there is lost."""
        tensors = iter(self.tensors)
        return mapped(self.structure, lambda _: next(tensors)[: self.rows])


def padded(tensor: Tensor, sizes: list[int]) -> Tensor:
    """[rows, ...] -> [rows, *sizes] with zeros behind."""
    missing = [size - own for own, size in zip(tensor.shape[1:], sizes, strict=True)]
    return functional.pad(tensor, [n for count in reversed(missing) for n in (0, count)]) if any(missing) else tensor


def mapped(value: Any, change: Callable[[Tensor], Any], seen: dict[int, Any] | None = None) -> Any:
    """A copy of a structure with every tensor changed, always in one order; Tokens may be in what they memoise."""
    seen = {} if seen is None else seen
    if isinstance(value, Tensor):
        return change(value)
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        seen[id(value)] = made = {}
        made |= {key: mapped(part, change, seen) for key, part in value.items()}
        return made
    if isinstance(value, list | tuple):
        return type(value)(mapped(part, change, seen) for part in value)
    if isinstance(value, Tokens):
        assert value.share is None, "rows of a bank share no units"
        seen[id(value)] = copy = Tokens(value.values, value.mask)  # without a grid, which no step looks at
        copy.values, copy.mask, copy.item = (mapped(part, change, seen) for part in (value.values, value.mask, value.item))
        copy.memo = mapped(value.memo, change, seen)
        return copy
    return value
