"""What connectors with learned queries share: the queries, the way in for what they read, and the way out. No component itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasm.connectors.base import Options
from chiasm.fusion.attention import Attention
from chiasm.types import RecipeError, Tokens


class QueryOptions(Options):
    """Keys of every connector that reads with learned queries."""

    tokens: Annotated[int, Field(ge=1)] = 32
    """How many queries, and so how many tokens come out of each picture or clip."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Inner width; the backbone's if not given."""
    feed_forward: Annotated[int, Field(ge=1)] = 4
    """Width of the feed-forward, in multiples of the inner width."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on attention weights."""
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    """What tells the queries where a token stands: sinusoids of its row and column, or of its place in the sequence; or nothing."""


class Queries(nn.Module):
    """Learned queries [N, I] of inner width I; `enter` and `leave` lead from the encoder's width to theirs, and on to the backbone's."""

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__()
        self.options, self.width = options, options.width or width
        if self.width % options.heads:
            raise RecipeError(
                f"connector.heads: width {self.width} is not divisible by {options.heads} heads; give another `heads` or `width`"
            )
        self.start = nn.Parameter(torch.randn(options.tokens, self.width) * 0.7)  # comparable with what is read, so that they differ
        self.inlet = Inlet(source_width, self.width)
        self.norm, self.outlet = nn.LayerNorm(self.width), nn.Linear(self.width, width)

    def attention(self) -> Attention:
        """A fresh attention of this size."""
        return Attention(self.width, self.options.heads, dropout=self.options.dropout)

    def enter(self, tokens: Tokens) -> Tokens:
        """What is read: [U, L, source_width] -> [U, L, I], exactly 0 where masked."""
        hidden, length = ~tokens.mask.unsqueeze(-1), tokens.mask.shape[1]
        place = torch.arange(length, device=tokens.mask.device)
        along = [place] if tokens.grid is None else [place // tokens.grid[1], place % tokens.grid[1]]
        values = self.inlet(tokens.values.masked_fill(hidden, 0.0), along if self.options.positions == "sinusoidal" else ())
        return replace(tokens, values=values.masked_fill(hidden, 0.0))

    def begin(self, present: Tensor, like: Tensor) -> Tokens:
        """The queries of every unit that is `present` [U]; the others' are hidden."""
        values = self.start.to(like.dtype).expand(len(present), -1, -1)
        return Tokens(values, present.unsqueeze(1).expand(values.shape[:2]))

    def leave(self, queries: Tokens, item: Tensor | None) -> Tokens:
        """[U, N, I] -> [U, N, width]; `item` [U, L] of what was read, which is of one picture or clip."""
        own = None if item is None else item[:, :1].expand(queries.mask.shape)
        return replace(queries, values=self.outlet(self.norm(queries.values)), item=own)


class Inlet(nn.Module):
    """[..., source_width] -> [..., width]: linear, layer norm, and where each token stands."""

    def __init__(self, source_width: int, width: int):
        super().__init__()
        self.layer, self.norm = nn.Linear(source_width, width), nn.LayerNorm(width)

    def forward(self, values: Tensor, places: Sequence[Tensor]) -> Tensor:
        values = self.norm(self.layer(values))
        return values + sinusoids(places, values.shape[-1]).to(values.dtype) if places else values


def sinusoids(places: Sequence[Tensor], width: int) -> Tensor:
    """Whole numbers, one or several [..., L] (row and column) -> [..., L, width]: sines and cosines of falling frequency (Vaswani et al.,
    2017), each number in its own part of the width."""
    count = width // (2 * len(places))
    rates = 10_000.0 ** -(torch.arange(count, device=places[0].device) / max(count, 1))
    parts = [wave(place.unsqueeze(-1) * rates) for place in places for wave in (torch.sin, torch.cos)]
    return functional.pad(torch.cat(parts, -1), (0, width - 2 * len(places) * count))
