"""Learned latents read the encoder's tokens, however many those are (Flamingo's resampler, Alayrac et al., 2022; Idefics2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from chiasm.connectors.base import Connector
from chiasm.connectors.queries import Queries, QueryOptions
from chiasm.fusion.attention import Reader
from chiasm.types import Step, Tokens


class PerceiverResampler(Connector):
    """`depth` times: z <- z + Attention(z, {stream, z}); z <- z + FeedForward(z). A unit with nothing visible stays masked."""

    class Options(QueryOptions):
        tokens: Annotated[int, Field(ge=1)] = 64
        """How many latents, and so how many tokens come out of each picture or clip."""
        depth: Annotated[int, Field(ge=1)] = 3
        """How many layers (Flamingo: 6; Idefics2: 3)."""

    has_positions = True

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__(options, source_width, width)
        self.queries = queries = Queries(options, source_width, width)
        sources, times = ["stream", "latents"], options.feed_forward
        self.layers = nn.ModuleList(Reader(queries.width, queries.attention(), sources, feed_forward=times) for _ in range(options.depth))

    def num_tokens(self, length: int | None) -> int | None:
        return self.options.tokens

    def forward(self, tokens: Tokens) -> Tokens:
        stream = self.queries.enter(replace(tokens, share=None))
        latents = self.queries.begin(stream.present, stream.values)
        step = Step(mask=latents.mask)
        for layer in self.layers:
            latents = replace(latents, values=layer(latents.values, {"stream": stream, "latents": latents}, step))
        return replace(self.queries.leave(latents, tokens.item), share=tokens.share)
