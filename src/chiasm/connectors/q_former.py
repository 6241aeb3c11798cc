"""Learned queries with a small transformer of their own (BLIP-2, Li et al., 2023; with `reads: text` InstructBLIP, Dai et al., 2023).

A block: queries attend to each other, in every k-th block they read the stream, then a feed-forward. With `reads: text` the prompt's words
stand beside the queries: both attend to both, and the words have a feed-forward of their own. They are the backbone's word embeddings, and
only of what may be read without a leak: on a causal backbone the prompt, never what is written after it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.connectors.base import Connector
from chiasm.connectors.queries import Inlet, Queries, QueryOptions
from chiasm.fusion.attention import FeedForward, Reader
from chiasm.types import Step, Tokens


class QFormer(Connector):
    """`depth` blocks, of which the first and then every k-th read the stream. A unit with nothing visible stays masked."""

    class Options(QueryOptions):
        depth: Annotated[int, Field(ge=1)] = 4
        """How many blocks (BLIP-2: 12)."""
        cross_every: Annotated[int, Field(ge=1)] = 2
        """k: every so many blocks the queries read the stream, beginning with the first."""
        norm: Literal["pre", "post"] = "pre"
        """Layer norm ahead of each step, or after it as in BERT and BLIP-2."""
        reads: Literal["none", "text"] = "none"
        """text: the queries read the row's prompt too, so a picture's tokens depend on what is asked."""

    has_positions = True

    def __init__(self, options: Any, source_width: int, width: int):
        super().__init__(options, source_width, width)
        self.reads_text = options.reads == "text"
        self.queries = Queries(options, source_width, width)
        self.words = Inlet(width, self.queries.width) if self.reads_text else None
        self.blocks = nn.ModuleList(
            Block(self.queries, crosses=i % options.cross_every == 0, words=self.reads_text and i + 1 < options.depth)
            for i in range(options.depth)
        )

    @property
    def carries(self) -> int:
        return self.queries.width if self.reads_text else self.width

    def num_tokens(self, length: int | None) -> int | None:
        return self.options.tokens

    def forward(self, tokens: Tokens) -> Tokens:
        stream = self.queries.enter(replace(tokens, share=None))
        if not self.reads_text:
            stream = self.run(stream, None, Step(mask=stream.mask))
        return replace(stream, share=tokens.share)

    def read(self, tokens: Tokens, prompt: Tokens, step: Step) -> Tokens:
        """Shared pictures are laid out by row, and several pictures of a row are read one by one, each with the row's words."""
        assert self.words is not None
        rows, items = tokens.by_row(), items_of(tokens)
        apart = Tokens(*(part.unflatten(1, (items, -1)).flatten(0, 1) for part in (rows.values, rows.mask)))  # [R * K, L, I]
        place = (prompt.mask.long().cumsum(1) - 1).clamp_min(0)  # counted over what is read, so that padding changes nothing
        values = self.words(prompt.values.masked_fill(~prompt.mask.unsqueeze(-1), 0.0), [place])
        words = Tokens(values.repeat_interleave(items, 0), prompt.mask.repeat_interleave(items, 0))
        found = self.run(apart, words, Step(mask=words.mask))
        values, mask = (part.unflatten(0, (-1, items)).flatten(1, 2) for part in (found.values, found.mask))
        item = torch.arange(items, device=mask.device).repeat_interleave(self.options.tokens).expand(mask.shape)
        return Tokens(values, mask, item=item)

    def seen(self, tokens: Tokens) -> Tensor:
        if not self.reads_text:
            return super().seen(tokens)
        visible = tokens.mask.unflatten(1, (items_of(tokens), -1)).any(-1).repeat_interleave(self.options.tokens, 1)  # [U, K * N]
        return visible if tokens.share is None else visible[tokens.share]

    def run(self, stream: Tokens, words: Tokens | None, step: Step) -> Tokens:
        """All blocks over entered tokens [U, L, I] and words [U, T, I] -> [U, N, width]."""
        queries = self.queries.begin(stream.present, stream.values)
        for block in self.blocks:
            queries, words = block(queries, words, stream, step)
        return self.queries.leave(queries, stream.item)


class Block(nn.Module):
    """One block; `words`: whether it also changes the words, for the next block to read."""

    def __init__(self, queries: Queries, *, crosses: bool, words: bool):
        super().__init__()
        width, times, norm = queries.width, queries.options.feed_forward, queries.options.norm
        self.attend = Reader(width, queries.attention(), ["all"], norm=norm)
        self.cross = Reader(width, queries.attention(), ["stream"], norm=norm) if crosses else None
        self.feed_forward = FeedForward(width, times, norm=norm)
        self.feed_words = FeedForward(width, times, norm=norm) if words else None

    def forward(self, queries: Tokens, words: Tokens | None, stream: Tokens, step: Step) -> tuple[Tokens, Tokens | None]:
        both = queries
        if words is not None:
            both = Tokens(torch.cat([queries.values, words.values], 1), torch.cat([queries.mask, words.mask], 1))
        values = self.attend(both.values, {"all": both}, step)
        count = queries.mask.shape[1]
        asked, said = values[:, :count], values[:, count:]
        if self.cross is not None:
            asked = self.cross(asked, {"stream": stream}, step)
        queries = replace(queries, values=self.feed_forward(asked))
        if words is not None and self.feed_words is not None:
            words = replace(words, values=self.feed_words(said))
        return queries, words


def items_of(tokens: Tokens) -> int:
    """How many pictures or clips each unit holds, one after the other and equally long."""
    return 1 if tokens.item is None else int(tokens.item.max()) + 1
