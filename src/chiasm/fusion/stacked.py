"""Stacked attention in several hops: streams read the text, the text reads those streams, and so on in turn (SAN, Yang et al., 2016).

Unlike co-attention, a hop sees what the hop before it found. The last layer met is always a reading of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from chiasm.fusion.attention import Reader, readable, unshared
from chiasm.fusion.base import BackboneShape, LayerFusion, LayerOptions, StreamShape
from chiasm.types import Step, Streams, Tokens


class Stacked(LayerFusion):
    """From the last layer met backwards: text <- streams, streams <- text, text <- streams, ..."""

    paper = "SAN, Yang et al., 2016"

    class Options(LayerOptions):
        feed_forward: int = 0
        """Width of a feed-forward after each hop, in multiples of the backbone's width; 0: none."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        self.needs_layers(2, "cross_attention")
        self.hops = nn.ModuleList(
            nn.ModuleDict({"text": self.reader(self.inputs)} if self.text_reads(layer) else {n: self.reader(["text"]) for n in self.inputs})
            for layer in self.layers
        )

    def reader(self, sources: Any) -> Reader:
        return Reader(self.backbone.width, self.attention(), sources, feed_forward=self.options.feed_forward)

    def text_reads(self, layer: int) -> bool:
        return (len(self.layers) - 1 - self.at(layer)) % 2 == 0

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        hop: Any = self.hops[self.at(layer)]
        if self.text_reads(layer):
            return replace(text, values=hop["text"](text.values, streams, step)), streams
        given = {"text": readable(text, step)}
        return text, self.kept(
            layer,
            streams,
            step,
            lambda: {n: replace(t, values=hop[n](t.values, given, step), memo={}) for n, t in unshared(streams).items()},
        )
