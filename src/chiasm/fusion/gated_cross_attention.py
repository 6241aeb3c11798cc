"""Gated cross-attention: text reads streams through gates that start closed (Flamingo, Alayrac et al., 2022).

At the start the model is bit-equal to the bare language model: x + tanh(0) * anything = x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from chiasm.fusion.attention import Reader
from chiasm.fusion.base import BackboneShape, LayerFusion, SeeingOptions, StreamShape
from chiasm.types import Step, Streams, Tokens


class GatedCrossAttention(LayerFusion):
    """x <- x + tanh(a) * Attention(x, stream); x <- x + tanh(b) * FeedForward(x), ahead of every k-th layer; a = b = 0 at the start."""

    paper = "Flamingo, Alayrac et al., 2022"
    order_free = False  # the streams are read one after the other

    class Options(SeeingOptions):
        feed_forward: int = 4
        """Width of the gated feed-forward, in multiples of the backbone's width; 0: none."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        self.blocks = nn.ModuleList(nn.ModuleDict({name: self.block(name) for name in self.inputs}) for _ in self.layers)

    def block(self, name: str) -> Reader:
        return Reader(self.backbone.width, self.attention(), [name], feed_forward=self.options.feed_forward, gated=True)

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        values = text.values
        readers: Any = self.blocks[self.at(layer)]
        for name, reader in readers.items():
            values = reader(values, streams, step, allowed=self.seen(name, streams, step))
        return replace(text, values=values), streams

    def gates(self) -> list[Tensor]:
        return [gate for name, gate in self.named_parameters() if name.endswith("gate.weight")]
