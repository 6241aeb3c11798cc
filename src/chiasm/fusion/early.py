"""Early fusion: stream tokens join the backbone's input sequence at their placeholders (LLaVA, Kosmos-1, VisualBERT, ViLT).

The prompt decides the place: `{image}` inside a prompt interleaves; without it, streams stand in front on a causal backbone and after the
text on a bidirectional one (VisualBERT's order). The text's length never changes here. With `absent: learned` the processor writes one
placeholder for an input that a row lacks; where ids come from elsewhere, the row's first placeholder of that input shows the learned token,
the others are hidden, and without any nothing is seen of it.

A stream token gets the backbone's own position embedding of its place, as a word would, on top of the fusion's. With `counted: false` all
of them get that of the first place and words are counted without them, so that only the fusion's embeddings say which is which: VisualBERT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from chiasm.fusion.base import BackboneShape, Fusion, StreamShape, at_placeholders
from chiasm.fusion.base import Options as BaseOptions
from chiasm.types import RecipeError, Step, Streams, Tokens


class Early(Fusion):
    """Put every stream's tokens at its placeholders, in order."""

    paper = "VisualBERT, Li et al., 2019; ViLT, Kim et al., 2021; LLaVA, Liu et al., 2023"
    order_free = False  # the streams stand one after the other in the sequence

    class Options(BaseOptions):
        counted: bool = True
        """Stream tokens take places in the backbone's own count of positions, as words do; false: they all stand at its first place."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        if not options.counted and not backbone.takes_positions:
            raise RecipeError("fusion.counted: this backbone counts every token itself; write counted: true, or take another (arch: bert)")

    @classmethod
    def scatters(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        return tuple(inputs if options.inputs is None else options.inputs)

    def before(self, text: Tokens, streams: Streams, step: Step) -> Tokens:
        values, taken = text.values, torch.zeros_like(text.mask)
        for name, stream in streams.items():
            if name in step.placeholders:
                place = step.placeholders[name]
                values, taken = torch.where(place.unsqueeze(-1), at_placeholders(stream, place), values), taken | place
        if not self.options.counted:
            step.positions = torch.where(taken, 0, (~taken).long().cumsum(1) - 1)
        return replace(text, values=values)
