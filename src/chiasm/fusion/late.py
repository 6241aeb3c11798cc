"""Late fusion: each branch decides alone; then vectors or decisions are combined (BERT + ViT with a linear layer; GMU gates).

`combine: decisions` averages what the branches decide and cannot represent an interaction; `concat`, `sum` and `gated` combine pooled
vectors. An absent input contributes nothing: its vector is 0, its gate and its vote are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chiasm.fusion.base import BackboneShape, Fusion, StreamShape
from chiasm.fusion.base import Options as BaseOptions
from chiasm.types import Fused, Step, Streams, Tokens


class Late(Fusion):
    """Combine the backbone's output [R, T, W] with one pooled vector per stream [R, W], position by position."""

    class Options(BaseOptions):
        combine: Literal["concat", "sum", "gated", "decisions"] = "concat"
        """What is combined: vectors (concat with an MLP; sum; gated by softmax over present inputs, GMU) or the branches' decisions."""
        hidden: int = 2
        """Width of the MLP after `concat`, in multiples of the backbone's width."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        width, count = backbone.width, 1 + len(self.inputs)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in self.inputs})
        self.mix: nn.Module | None = None
        if options.combine == "concat":
            inner = options.hidden * width
            self.mix = nn.Sequential(nn.Linear(count * width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))
        elif options.combine == "gated":
            self.mix = nn.Linear(count * width, count)

    def after(self, text: Tokens, streams: Streams, step: Step) -> Fused:
        pooled = {name: self.norms[name](streams[name].pooled()) for name in self.inputs if name in streams}  # [R, W]
        present = {name: streams[name].present for name in pooled}  # [R]
        if self.options.combine == "decisions":
            one = {name: Tokens(vector.unsqueeze(1), present[name].unsqueeze(1)) for name, vector in pooled.items()}
            weight = torch.stack([text.mask.any(1), *present.values()], 1).to(text.values.dtype)
            return Fused({"text": text, **one}, mix=weight / weight.sum(1, keepdim=True).clamp_min(1))
        parts, visible = [text.values], [torch.ones_like(text.values[..., 0])]
        for name in self.inputs:
            here = present[name].to(text.values.dtype) if name in pooled else text.values.new_zeros(len(text.values))
            vector = pooled[name] * here.unsqueeze(1) if name in pooled else text.values.new_zeros(len(text.values), text.values.shape[-1])
            parts.append(vector.unsqueeze(1).expand_as(text.values))
            visible.append(here.unsqueeze(1).expand(text.values.shape[:2]))
        return Fused({"text": replace(text, values=self.combine(parts, torch.stack(visible, -1)))})

    def combine(self, parts: list[Tensor], visible: Tensor) -> Tensor:
        """M tensors [R, T, W] and their presence [R, T, M] -> [R, T, W]."""
        if self.options.combine == "sum":
            return torch.stack(parts).sum(0)
        assert self.mix is not None
        joined = self.mix(torch.cat(parts, -1))
        if self.options.combine == "concat":
            return parts[0] + joined
        gates = joined.masked_fill(visible == 0, -torch.inf).softmax(-1)  # [R, T, M]
        return (torch.stack(parts, -1) * gates.unsqueeze(-2)).sum(-1)
