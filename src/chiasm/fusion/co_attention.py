"""Co-attention: text reads the streams and the streams read the text, each with its own layers (ViLBERT, LXMERT).

A stream's step is: read the others, read itself, feed-forward. The text's own self-attention and feed-forward are the backbone's layer
that follows. `norm: post` with `share: true` is LXMERT's cross-modality layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from chiasm.fusion.attention import Attention, Reader, readable, unshared
from chiasm.fusion.base import BackboneShape, LayerFusion, LayerOptions, StreamShape
from chiasm.types import Step, Streams, Tokens


class CoAttention(LayerFusion):
    """Both directions at once, from the same state of both sides; the last layer met only reads (nothing would see a stream's change)."""

    paper = "ViLBERT, Lu et al., 2019; LXMERT, Tan and Bansal, 2019"

    class Options(LayerOptions):
        feed_forward: int = 4
        """Width of the streams' feed-forward, in multiples of the backbone's width; 0: none."""
        norm: Literal["pre", "post"] = "pre"
        """post: norm(x + A x), as BERT, ViLBERT and LXMERT do it."""
        share: bool = False
        """All directions of a layer share one attention (LXMERT)."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        self.needs_layers(2, "cross_attention")
        self.blocks = nn.ModuleList(self.block(last=layer == self.layers[-1]) for layer in self.layers)

    def block(self, *, last: bool) -> nn.Module:
        width, options = self.backbone.width, self.options
        block = nn.ModuleDict({"shared": self.attention()} if options.share else {})
        block["text"] = Reader(width, None if options.share else self.attention(), self.inputs, norm=options.norm)
        for name in () if last else self.inputs:
            others = ["text", *(other for other in self.inputs if other != name)]
            block[f"{name}/others"] = Reader(width, None if options.share else self.attention(), others, norm=options.norm)
            block[f"{name}/self"] = Reader(width, self.attention(), [name], norm=options.norm, feed_forward=options.feed_forward)
        return block

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        block: Any = self.blocks[self.at(layer)]
        values = block["text"](text.values, streams, step, attention=shared_by(block))
        if layer != self.layers[-1]:
            streams = self.kept(layer, streams, step, lambda: self.update(block, readable(text, step), unshared(streams), step))
        return replace(text, values=values), streams

    def update(self, block: Any, text: Tokens, streams: Streams, step: Step) -> Streams:
        changed = {}
        for name, tokens in streams.items():
            values = block[f"{name}/others"](tokens.values, {**streams, "text": text}, step, attention=shared_by(block))
            values = block[f"{name}/self"](values, {name: replace(tokens, values=values)}, step)
            changed[name] = replace(tokens, values=values, memo={})
        return changed


def shared_by(block: Any) -> Attention | None:
    """The attention that all directions of a block share, if they do."""
    return getattr(block, "shared", None)
