"""What a fusion costs: its parameters, and its multiply-accumulates for one row, counted by running its hooks without any numbers.

Matrix products are counted (projections, attention, feed-forwards), as torch's own counter does; additions and activations are not.
What a fusion makes the backbone do is the backbone's: early fusion itself only puts tokens in their places.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chiasm.fusion.base import Fusion
from chiasm.types import Step, Tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one fusion: `parameters`, and `macs` (multiply-accumulates) of one forward pass over one row."""

    parameters: int
    macs: int


def cost(fusion: Fusion, text_length: int, stream_lengths: Mapping[str, int]) -> Cost:
    """The cost of one row with a text of `text_length` tokens and, per input, a stream of so many; streams left out are absent.

    Hooks run on the `meta` device, where tensors have shapes and no values, so nothing is allocated or multiplied.
    """
    shapes = copy.deepcopy(fusion).to("meta").requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run(shapes, text_length, stream_lengths)
    return Cost(sum(p.numel() for p in fusion.parameters()), counter.get_total_flops() // 2)


def run(fusion: Fusion, text_length: int, stream_lengths: Mapping[str, int]) -> None:
    """Every hook once, in order, on one row of tokens without values."""
    dtype = next((p.dtype for p in fusion.parameters()), torch.float32)

    def tokens(length: int) -> Tokens:
        values = torch.empty(1, length, fusion.backbone.width, device="meta", dtype=dtype)
        return Tokens(values, torch.ones(1, length, device="meta", dtype=torch.bool))

    text = tokens(text_length)
    step = Step(text.mask)
    streams = fusion.place({name: tokens(length) for name, length in stream_lengths.items()})
    text = fusion.before(text, streams, step)
    fusion.memory(streams, step)
    for layer in fusion.layers:
        text, streams = fusion.between(layer, text, streams, step)
    fusion.after(text, streams, step)
