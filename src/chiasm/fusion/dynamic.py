"""Dynamic fusion: one branch per modality, and a router that weighs them for each sample (mixture of experts; QMF).

The router sees the pooled text (of a causal backbone: the prompt only), the pooled streams and which of them are there. Absent branches
have weight 0; those present have at least `floor`. The result is a mixture of decisions, weighted by all inputs together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.fusion.attention import readable
from chiasm.fusion.base import BackboneShape, Fusion, StreamShape
from chiasm.fusion.base import Options as BaseOptions
from chiasm.types import Fused, Step, Streams, Tokens


class Dynamic(Fusion):
    """Fused.mix [R, 1 + M] = softmax of a router's scores over the branches present."""

    paper = "mixture of experts, Jacobs et al., 1991; QMF, Zhang et al., 2023"
    votes = True
    unstable = "0.22, 0.22, 0.24 of the last digits of sums (chance 0.10)"  # only the weights depend on all inputs

    class Options(BaseOptions):
        width: int | None = None
        """Inner width of the router; the backbone's if not given."""
        temperature: Annotated[float, Field(gt=0)] = 1.0
        """Of the softmax; lower is closer to a choice of one branch."""
        floor: Annotated[float, Field(ge=0, lt=1)] = 0.05
        """The total weight that is shared equally by the branches present, so that none of them is ever cut off."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        width, count = backbone.width, 1 + len(self.inputs)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in (*self.inputs, "text")})
        self.order = sorted(self.inputs)  # in which the router's weights stand for inputs, however they are declared
        inner = options.width or width
        self.router = nn.Sequential(nn.Linear(count * (width + 1), inner), nn.GELU(approximate="tanh"), nn.Linear(inner, count))

    def after(self, text: Tokens, streams: Streams, step: Step) -> Fused:
        pooled = {name: self.norms[name](streams[name].pooled()) for name in self.inputs if name in streams}
        branches = {name: Tokens(vector.unsqueeze(1), streams[name].present.unsqueeze(1)) for name, vector in pooled.items()}
        mix = self.kept("mix", streams, step, lambda: self.weigh(readable(text, step), pooled, streams))
        chosen = [0, *(1 + self.order.index(name) for name in pooled)]
        return Fused({"text": text, **branches}, mix=mix[:, chosen], aux={"weights": mix.detach()})

    def weigh(self, text: Tokens, pooled: Mapping[str, Tensor], streams: Streams) -> Tensor:
        """[R, 1 + M] weights that sum to 1."""
        rows, width = len(text.values), text.values.shape[-1]
        nothing = text.values.new_zeros(rows, width)
        absent = torch.zeros(rows, dtype=torch.bool, device=text.values.device)
        here = torch.stack([~absent, *(streams[n].present if n in streams else absent for n in self.order)], 1)  # [R, 1 + M]
        heard = replace(text, values=self.norms["text"](text.values)).pooled()
        vectors = torch.stack([heard, *(pooled.get(n, nothing) for n in self.order)], 1) * here.unsqueeze(-1)
        scores = self.router(torch.cat([vectors.flatten(1), here.to(vectors.dtype)], 1)) / self.options.temperature
        weights = scores.masked_fill(~here, -torch.inf).softmax(1)
        return (1 - self.options.floor) * weights + self.options.floor * here.to(weights.dtype) / here.sum(1, keepdim=True)
