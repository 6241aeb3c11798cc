"""Latents that read all streams, and the text that reads the latents (Perceiver IO, Jaegle et al., 2022).

However many pictures, frames or clips a row has, the text reads `latents` vectors. They never read the text, so nothing can leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from chiasm.fusion.attention import Reader, unshared
from chiasm.fusion.base import BackboneShape, LayerFusion, LayerOptions, StreamShape
from chiasm.types import Step, Streams, Tokens

LATENTS = "*latents"  # their place among the streams; no input can be called so


class Perceiver(LayerFusion):
    """latents <- {all streams, latents}; text <- latents; at every layer met."""

    paper = "Perceiver IO, Jaegle et al., 2022"

    class Options(LayerOptions):
        latents: int = 16
        """How many latents."""
        feed_forward: int = 4
        """Width of the latents' feed-forward, in multiples of the backbone's width; 0: none."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        width, sources = backbone.width, [*self.inputs, LATENTS]
        self.start = nn.Parameter(torch.randn(options.latents, width))
        self.latents = nn.ModuleList(Reader(width, self.attention(), sources, feed_forward=options.feed_forward) for _ in self.layers)
        self.texts = nn.ModuleList(Reader(width, self.attention(), [LATENTS]) for _ in self.layers)

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        if not streams:
            return text, streams
        streams = self.kept(layer, streams, step, lambda: self.read(layer, unshared(streams), step))
        return replace(text, values=self.texts[self.at(layer)](text.values, streams, step)), streams

    def read(self, layer: int, streams: Streams, step: Step) -> Streams:
        """The latents after this layer; rows without any stream have none."""
        latents = streams.get(LATENTS)
        if latents is None:
            some = torch.stack([tokens.present for tokens in streams.values()]).any(0)  # [R]
            first = next(iter(streams.values())).values
            start = self.start.to(first.dtype).expand(len(some), -1, -1)
            latents = Tokens(start, some.unsqueeze(1).expand(start.shape[:2]))
        values = self.latents[self.at(layer)](latents.values, {**streams, LATENTS: latents}, step)
        return {**streams, LATENTS: replace(latents, values=values, memo={})}
