"""Tokens as nodes of a graph: each reads its k nearest neighbours of every modality.

An edge exists where the cosine similarity of two tokens is among the k largest that the reader sees of that modality (were all modalities
in one ranking, a token's own would push the others out); each kind of edge, which modality reads which, has a learned score per head.
With `neighbours` as large as the number of tokens this is merged attention with edge types.
Sources: graph attention (Velickovic et al., 2018), relation types (Schlichtkrull et al., 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from chiasm.fusion.attention import Attention, FeedForward, readable, unshared
from chiasm.fusion.base import BackboneShape, LayerFusion, LayerOptions, StreamShape
from chiasm.types import Step, Streams, Tokens


class Graph(LayerFusion):
    """Text reads near stream tokens; streams read near tokens of all; the last layer met only changes the text."""

    paper = "GAT, Velickovic et al., 2018; R-GCN, Schlichtkrull et al., 2018"

    class Options(LayerOptions):
        neighbours: Annotated[int, Field(ge=1)] = 4
        """How many nearest tokens of each modality a token reads."""
        feed_forward: int = 4
        """Width of the streams' feed-forward, in multiples of the backbone's width; 0: none."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        self.needs_layers(2, "cross_attention")
        width = backbone.width
        self.nodes = nn.ModuleList()
        for layer in self.layers:
            nodes = {"text": Node(width, self.attention(), self.inputs, options.neighbours, 0)}
            for name in self.inputs if layer != self.layers[-1] else ():
                nodes[name] = Node(width, self.attention(), ["text", *self.inputs], options.neighbours, options.feed_forward)
            self.nodes.append(nn.ModuleDict(nodes))

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        nodes: Any = self.nodes[self.at(layer)]
        values = nodes["text"](text.values, streams, step)
        if layer != self.layers[-1]:
            heard = readable(text, step)
            streams = self.kept(layer, streams, step, lambda: self.update(nodes, heard, unshared(streams), step))
        return replace(text, values=values), streams

    def update(self, nodes: Any, text: Tokens, streams: Streams, step: Step) -> Streams:
        given = {**streams, "text": text}
        return {n: replace(t, values=nodes[n](t.values, given, step), memo={}) for n, t in streams.items()}


class Node(nn.Module):
    """[R, T, W] reads the nearest tokens of its sources, with a learned score per kind of edge."""

    def __init__(self, width: int, attention: Attention, sources: Sequence[str], neighbours: int, feed_forward: int):
        super().__init__()
        self.sources, self.neighbours, self.attention = tuple(sources), neighbours, attention
        self.norm, self.norm_sources = nn.LayerNorm(width), nn.ModuleDict({name: nn.LayerNorm(width) for name in self.sources})
        several = len(self.sources) > 1  # a score of the only kind would cancel in the softmax
        self.kinds = nn.ParameterDict({name: torch.zeros(attention.heads) for name in self.sources} if several else {})
        self.feed_forward = FeedForward(width, feed_forward) if feed_forward else None

    def forward(self, x: Tensor, given: Mapping[str, Tokens], step: Step) -> Tensor:
        names = [name for name in self.sources if name in given]
        if not names:
            return x
        rows = [given[name].by_row() for name in names]
        normed = [self.norm_sources[name](tokens.values) for name, tokens in zip(names, rows, strict=True)]
        query = self.norm(x)
        near = torch.cat([nearest(query, v, t.mask, self.neighbours) for v, t in zip(normed, rows, strict=True)], 2)
        bias = None
        if self.kinds:
            bias = torch.cat([self.kinds[n].unsqueeze(1).expand(-1, v.shape[1]) for n, v in zip(names, normed, strict=True)], 1)  # [H, L]
        sources = [(replace(tokens, memo={}), value) for tokens, value in zip(rows, normed, strict=True)]
        x = x + self.attention(query, sources, step, allowed=near, bias=bias)
        if self.feed_forward is None:
            return x
        return torch.where(near.flatten(1).any(1)[:, None, None], self.feed_forward(x), x)


def nearest(x: Tensor, sources: Tensor, mask: Tensor, count: int) -> Tensor:
    """[R, T, L] True at the `count` visible sources [R, L, W] that are most similar to each token [R, T, W]."""
    with torch.no_grad():
        alike = functional.normalize(x.float(), dim=-1) @ functional.normalize(sources.float(), dim=-1).transpose(-1, -2)
        alike = alike.masked_fill(~mask.unsqueeze(1), -torch.inf)
        best = alike.topk(min(count, alike.shape[-1]), dim=-1)
        return torch.zeros_like(alike, dtype=torch.bool).scatter_(-1, best.indices, best.values > -torch.inf)
