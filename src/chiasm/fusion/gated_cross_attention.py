"""Gated cross-attention: text reads streams through gates that start closed (Flamingo, Alayrac et al., 2022).

At the start the model is bit-equal to the bare language model: x + tanh(0) * anything = x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.fusion.base import Attention, BackboneShape, Fusion, StreamShape
from chiasm.fusion.base import Options as BaseOptions
from chiasm.types import Step, Streams, Tokens


class GatedCrossAttention(Fusion):
    """x <- x + tanh(a) * Attention(x, stream); x <- x + tanh(b) * FeedForward(x), ahead of every k-th layer; a = b = 0 at the start."""

    class Options(BaseOptions):
        every: int = 1
        """Ahead of every how many layers (Flamingo: 1 to 7, by size)."""
        heads: int | None = None
        """Attention heads; the backbone's number if not given."""
        feed_forward: int = 4
        """Width of the gated feed-forward, in multiples of the backbone's width; 0: none."""
        dropout: float = 0.0
        """Dropout on attention weights."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        self.blocks = nn.ModuleList(nn.ModuleDict({name: GatedRead(options, backbone) for name in self.inputs}) for _ in self.layers)

    @property
    def layers(self) -> range:
        return range(0, self.backbone.num_layers, self.options.every)

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        values = text.values
        for name, block in self.blocks[layer // self.options.every].items():
            if name in streams:
                values = block(values, streams[name], step)
        return replace(text, values=values), streams

    def gates(self) -> list[Tensor]:
        return [gate for name, gate in self.named_parameters() if name.endswith("gate.weight")]


class Gate(nn.Module):
    """[..., W] -> tanh(a) * [..., W], one scalar a that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.weight) * x


class GatedRead(nn.Module):
    """One gated block: attention over a stream, then a feed-forward; an absent row passes unchanged through the attention."""

    def __init__(self, options: Any, backbone: BackboneShape):
        super().__init__()
        width = backbone.width
        self.norm_text, self.norm_stream = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, options.heads or backbone.num_heads, dropout=options.dropout)
        self.attention_gate = Gate()
        inner = options.feed_forward * width
        self.feed_forward = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))
            if inner
            else None
        )
        self.feed_forward_gate = Gate() if inner else None

    def forward(self, x: Tensor, source: Tokens, step: Step) -> Tensor:
        x = x + self.attention_gate(self.attention(self.norm_text(x), source, self.norm_stream(source.values), step))
        if self.feed_forward is None or self.feed_forward_gate is None:
            return x
        return x + self.feed_forward_gate(self.feed_forward(x)) * source.present[:, None, None]
