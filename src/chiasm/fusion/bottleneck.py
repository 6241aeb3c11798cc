"""Attention bottleneck: modalities exchange through a few shared vectors only (MBT, Nagrani et al., 2021).

Ahead of each layer met, every modality writes its own copy of the bottleneck after reading itself and the old one; the copies' mean over
the modalities that are present is the new bottleneck, which all of them then read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.fusion.attention import Reader, readable, unshared
from chiasm.fusion.base import BackboneShape, LayerFusion, LayerOptions, StreamShape
from chiasm.types import Step, Streams, Tokens

SHARED = "*bottleneck"  # its place among the streams; no input can be called so


class Bottleneck(LayerFusion):
    """B_m <- {x_m, B}; B = mean of B_m; x_m <- {x_m, B}; text <- B."""

    paper = "MBT, Nagrani et al., 2021"

    class Options(LayerOptions):
        tokens: int = 4
        """How many vectors the bottleneck has."""
        feed_forward: int = 4
        """Width of the streams' feed-forward, in multiples of the backbone's width; 0: none."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        width, times = backbone.width, options.feed_forward
        self.start = nn.Parameter(torch.randn(options.tokens, width) * backbone.embedding_std)
        self.writes, self.reads = nn.ModuleList(), nn.ModuleList()
        for layer in self.layers:
            writers = {name: Reader(width, self.attention(), [name, SHARED]) for name in (*self.inputs, "text")}
            readers = {"text": Reader(width, self.attention(), [SHARED])}
            for name in self.inputs if layer != self.layers[-1] else ():  # nothing would see a stream's change at the last
                readers[name] = Reader(width, self.attention(), [name, SHARED], feed_forward=times)
            self.writes.append(nn.ModuleDict(writers))
            self.reads.append(nn.ModuleDict(readers))

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        if not streams:
            return text, streams
        streams = self.kept(layer, streams, step, lambda: self.exchange(layer, readable(text, step), unshared(streams), step))
        reader: Any = self.reads[self.at(layer)]
        return replace(text, values=reader["text"](text.values, streams, step)), streams

    def exchange(self, layer: int, text: Tokens, streams: Streams, step: Step) -> Streams:
        """The streams and the bottleneck after this layer; rows without any stream have no bottleneck."""
        writers: Any = self.writes[self.at(layer)]
        readers: Any = self.reads[self.at(layer)]
        streams = dict(streams)
        some = torch.stack([tokens.present for tokens in streams.values()]).any(0)  # [R]
        start = self.start.to(text.values.dtype).expand(len(some), -1, -1)
        old = streams.pop(SHARED, None) or Tokens(start, some.unsqueeze(1).expand(start.shape[:2]))
        copies: list[Tensor] = []
        weights: list[Tensor] = []
        for name, tokens in {**streams, "text": text}.items():
            copies.append(writers[name](old.values, {name: tokens, SHARED: old}, step))
            weights.append(tokens.present.to(start.dtype))
        weight = torch.stack(weights)[:, :, None, None]  # [M, R, 1, 1]
        shared = replace(old, values=(torch.stack(copies) * weight).sum(0) / weight.sum(0).clamp_min(1), memo={})
        if layer == self.layers[-1]:
            return {**streams, SHARED: shared}
        changed = {
            n: replace(t, values=readers[n](t.values, {n: t, SHARED: shared}, step), memo={}) for n, t in streams.items() if n in readers
        }
        return {**changed, SHARED: shared}
