"""Cross-attention: text tokens read stream tokens ahead of every k-th layer (VisionEncoderDecoder, ViT to GPT-2; CoCa's decoder).

Works on any backbone through its layer list. `weights: backbone` uses the cross-attention that GPT-2, BERT, T5 and BART bring themselves
instead (those weights keep their own names); several inputs are then concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from chiasm.fusion.base import Attention, BackboneShape, Fusion, StreamShape
from chiasm.fusion.base import Options as BaseOptions
from chiasm.types import RecipeError, Step, Streams, Tokens


class CrossAttention(Fusion):
    """x <- x + Attention(norm(x), norm(stream)) for each stream, ahead of layers 0, every, 2 * every, ..."""

    class Options(BaseOptions):
        every: int = 1
        """Ahead of every how many layers."""
        heads: int | None = None
        """Attention heads; the backbone's number if not given."""
        start: Literal["matching", "random"] = "matching"
        """matching: W_Q = W_K at the start, so that it begins by matching similar things."""
        dropout: float = 0.0
        """Dropout on attention weights."""
        weights: Literal["own", "backbone"] = "own"
        """backbone: the cross-attention that the backbone's architecture has itself."""

    @classmethod
    def needs_cross_attention(cls, options: Any) -> bool:
        return options.weights == "backbone"

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        width, heads = backbone.width, options.heads or backbone.num_heads
        if options.weights == "backbone" and not backbone.has_cross_attention:
            raise RecipeError("fusion.weights: this backbone has no cross-attention of its own; use weights: own")
        self.reads = nn.ModuleList(nn.ModuleDict({name: CrossRead(width, heads, options) for name in self.inputs}) for _ in self.layers)

    @property
    def layers(self) -> range:
        return range(0, self.backbone.num_layers, self.options.every) if self.options.weights == "own" else range(0)

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        values = text.values
        for name, read in self.reads[layer // self.options.every].items():
            if name in streams:
                values = values + read(values, streams[name], step)
        return replace(text, values=values), streams

    def memory(self, streams: Streams, step: Step) -> Tokens | None:
        if self.options.weights == "own" or not streams:
            return None
        rows = [streams[name].by_row() for name in self.inputs if name in streams]
        return Tokens(torch.cat([t.values for t in rows], 1), torch.cat([t.mask for t in rows], 1))


class CrossRead(nn.Module):
    """[R, T, W] reads a stream: normalised query, normalised source, one attention."""

    def __init__(self, width: int, heads: int, options: Any):
        super().__init__()
        self.norm_text, self.norm_stream = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, start=options.start, dropout=options.dropout)

    def forward(self, x: torch.Tensor, source: Tokens, step: Step) -> torch.Tensor:
        return self.attention(self.norm_text(x), source, self.norm_stream(source.values), step)
