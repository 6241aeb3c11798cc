"""Late fusion: each branch decides alone; then vectors or decisions are combined (BERT + ViT with a linear layer; GMU, FiLM, TFN, LMF).

`combine` on vectors: concat, sum, gated, film, tensor, low_rank. On decisions: `decisions` averages what the branches decide and `weighted`
learns one weight per branch; neither can represent an interaction. An absent input contributes nothing: its vector is 0 or the neutral
element, its gate and its vote are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from chiasm.fusion.base import BackboneShape, Fusion, StreamShape
from chiasm.fusion.base import Options as BaseOptions
from chiasm.fusion.combine import COMBINERS
from chiasm.types import Fused, Step, Streams, Tokens


class Late(Fusion):
    """Combine the backbone's output [R, T, W] with one pooled vector per stream [R, W], position by position."""

    paper = "GMU, Arevalo et al., 2017; FiLM, Perez et al., 2018; TFN, Zadeh et al., 2017; LMF, Liu et al., 2018"

    class Options(BaseOptions):
        combine: Literal["concat", "sum", "gated", "film", "tensor", "low_rank", "decisions", "weighted"] = "concat"
        """What is combined and how: vectors by the first six, the branches' decisions by the last two (equal or learned weights)."""
        width: int | None = None
        """Inner width of what combines; twice the backbone's if not given."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        width = backbone.width
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in self.inputs})
        self.votes = options.combine in ("decisions", "weighted")
        kind = COMBINERS.get(options.combine)
        self.combine = kind(width, len(self.inputs), options.width or 2 * width) if kind else None
        self.weights = nn.Parameter(torch.zeros(1 + len(self.inputs))) if options.combine == "weighted" else None
        self.interacts, self.unstable = (kind.interacts, kind.unstable) if kind else (False, "")
        self.order = sorted(self.inputs)  # in which weights stand for inputs, however they are declared

    def after(self, text: Tokens, streams: Streams, step: Step) -> Fused:
        pooled = {name: self.norms[name](streams[name].pooled()) for name in self.inputs if name in streams}  # [R, W]
        present = {name: streams[name].present for name in pooled}  # [R]
        if self.votes:
            one = {name: Tokens(vector.unsqueeze(1), present[name].unsqueeze(1)) for name, vector in pooled.items()}
            here = torch.stack([text.mask.any(1), *present.values()], 1).to(text.values.dtype)
            if self.weights is not None:
                chosen = [0, *(1 + self.order.index(name) for name in pooled)]
                here = here * self.weights.softmax(0)[chosen]
            return Fused({"text": text, **one}, mix=here / here.sum(1, keepdim=True).clamp_min(1e-9))
        if self.combine is None or not self.inputs:
            return Fused({"text": text})
        nothing = text.values.new_zeros(len(text.values), text.values.shape[-1])
        absent = torch.zeros(len(text.values), dtype=torch.bool, device=text.values.device)
        here_all = [present.get(name, absent) for name in self.order]
        vectors = [pooled[n] * here.unsqueeze(1) if n in pooled else nothing for n, here in zip(self.order, here_all, strict=True)]
        return Fused({"text": replace(text, values=self.combine(text.values, vectors, here_all))})
