"""Early fusion: stream tokens join the backbone's input sequence at their placeholders (LLaVA, Kosmos-1, VisualBERT, ViLT).

The prompt decides the place: `{image}` inside a prompt interleaves; without it, streams stand in front on a causal backbone and after the
text on a bidirectional one (VisualBERT's order). The text's length never changes here. With `absent: learned` the processor writes one
placeholder for an input that a row lacks; where ids come from elsewhere, the row's first placeholder of that input shows the learned token,
the others are hidden, and without any nothing is seen of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from chiasm.fusion.base import Fusion, at_placeholders
from chiasm.types import Step, Streams, Tokens


class Early(Fusion):
    """Put every stream's tokens at its placeholders, in order."""

    paper = "VisualBERT, Li et al., 2019; ViLT, Kim et al., 2021; LLaVA, Liu et al., 2023"

    @classmethod
    def scatters(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        return tuple(inputs if options.inputs is None else options.inputs)

    def before(self, text: Tokens, streams: Streams, step: Step) -> Tokens:
        values = text.values
        for name, stream in streams.items():
            if name in step.placeholders:
                values = torch.where(step.placeholders[name].unsqueeze(-1), at_placeholders(stream, step.placeholders[name]), values)
        return replace(text, values=values)
