"""Cross-attention: text tokens read stream tokens ahead of every k-th layer (VisionEncoderDecoder, ViT to GPT-2; CoCa's decoder).

Works on any backbone through its layer list. `weights: backbone` uses the cross-attention that GPT-2, BERT, T5 and BART bring themselves
instead (those weights keep their own names); several inputs are then concatenated, behind the encoder's output where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from chiasm.fusion.attention import Reader
from chiasm.fusion.base import BackboneShape, LayerFusion, SeeingOptions, StreamShape
from chiasm.types import RecipeError, Step, Streams, Tokens


class CrossAttention(LayerFusion):
    """x <- x + Attention(norm(x), norm(stream)) for each stream, ahead of layers 0, every, 2 * every, ..."""

    paper = "Vaswani et al., 2017; VisionEncoderDecoder"

    class Options(SeeingOptions):
        start: Literal["matching", "random"] = "matching"
        """matching: W_Q = W_K at the start, so that it begins by matching similar things."""
        weights: Literal["own", "backbone"] = "own"
        """backbone: the cross-attention that the backbone's architecture has itself."""

    @classmethod
    def needs_cross_attention(cls, options: Any) -> bool:
        return options.weights == "backbone"

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        if options.weights == "backbone" and not backbone.has_cross_attention:
            raise RecipeError("fusion.weights: the backbone has no cross-attention of its own (an encoder has none); use weights: own")
        if options.weights == "backbone" and options.see == "last":
            raise RecipeError("fusion.see: the backbone's own cross-attention reads everything at every token; use weights: own")
        self.order_free = options.weights == "backbone"  # else the streams are read one after the other
        self.reads = nn.ModuleList(
            nn.ModuleDict({name: Reader(backbone.width, self.attention(options.start), [name]) for name in self.inputs})
            for _ in self.layers
        )

    @property
    def layers(self) -> Sequence[int]:
        return super().layers if self.options.weights == "own" else range(0)

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        values = text.values
        readers: Any = self.reads[self.at(layer)]
        for name, reader in readers.items():
            values = reader(values, streams, step, allowed=self.seen(name, streams, step))
        return replace(text, values=values), streams

    def memory(self, streams: Streams, step: Step) -> Tokens | None:
        if self.options.weights == "own" or not streams:
            return None
        rows = [streams[name].by_row() for name in self.inputs if name in streams]
        return Tokens(torch.cat([t.values for t in rows], 1), torch.cat([t.mask for t in rows], 1))
