"""Merged attention: every stream reads itself, the other streams and the text in one softmax (METER, Dou et al., 2022).

Co-attention keeps reading others and reading oneself apart; here they compete for the same weight. The text reads all streams; its own
tokens it reads in the backbone's layer that follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from chiasm.fusion.attention import Reader, readable, unshared
from chiasm.fusion.base import BackboneShape, LayerFusion, LayerOptions, StreamShape
from chiasm.types import Step, Streams, Tokens


class Bidirectional(LayerFusion):
    """All read all; the last layer met only lets the text read."""

    paper = "METER, Dou et al., 2022"

    class Options(LayerOptions):
        feed_forward: int = 4
        """Width of the streams' feed-forward, in multiples of the backbone's width; 0: none."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        self.needs_layers(2, "cross_attention")
        width, times, last = backbone.width, options.feed_forward, len(self.layers) - 1
        self.texts = nn.ModuleList(Reader(width, self.attention(), self.inputs) for _ in self.layers)
        self.others = nn.ModuleList(
            nn.ModuleDict({name: Reader(width, self.attention(), ["text", *self.inputs], feed_forward=times) for name in self.inputs})
            for _ in range(last)
        )

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        values = self.texts[self.at(layer)](text.values, streams, step)
        if layer != self.layers[-1]:
            streams = self.kept(layer, streams, step, lambda: self.update(layer, readable(text, step), unshared(streams), step))
        return replace(text, values=values), streams

    def update(self, layer: int, text: Tokens, streams: Streams, step: Step) -> Streams:
        readers: Any = self.others[self.at(layer)]
        given = {**streams, "text": text}
        return {n: replace(t, values=readers[n](t.values, given, step), memo={}) for n, t in streams.items()}
