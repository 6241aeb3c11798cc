"""A learned weight per layer between what attention reads and what was there (cross-modal fusion with alpha_l).

form: convex (default)   h_T <- a * MHA(Q=h_T, K=V=h_I) + (1 - a) * h_T
form: printed            h_T <- MHA(Q=h_T, K=V=h_I) + (1 - a) * (h_T + align(h_I))

and the mirror image for h_I, with a = sigmoid of one learned number per layer and direction. The printed form adds tokens of both sides,
so `align` brings the stream to the text's length: `pool` (masked mean), `attention` (the values themselves under the same attention
weights), `interpolate` (along the sequence), `resample` (learned queries). Its attention is not weighted, and at a = 1 no identity is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.fusion.attention import Attention, readable, unshared
from chiasm.fusion.base import BackboneShape, LayerFusion, LayerOptions, StreamShape
from chiasm.types import RecipeError, Step, Streams, Tokens


class AlphaGated(LayerFusion):
    """Several streams are averaged over, so their order does not matter; the last layer met only changes the text."""

    paper = "no paper of its own; the convex form is near to highway networks, Srivastava et al., 2015"

    class Options(LayerOptions):
        form: Literal["convex", "printed"] = "convex"
        """Which of the two formulas."""
        align: Literal["pool", "attention", "interpolate", "resample"] = "pool"
        """How the printed form brings one side to the other's length."""
        alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
        """Every alpha at the start, between 0 and 1."""
        norm: bool = True
        """Layer-normalise what attention reads; without, the formula is literal."""

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options, backbone, streams)
        if options.form == "printed" and options.align == "interpolate" and backbone.causal:
            raise RecipeError("fusion.align: interpolate needs the whole text's length, which a causal backbone may not know; use pool")
        pairs = [[("text", n) for n in self.inputs] + [(n, "text") for n in self.inputs if la != self.layers[-1]] for la in self.layers]
        self.blocks = nn.ModuleList(
            nn.ModuleDict({f"{to}<-{source}": AlphaRead(self.attention(), backbone.width, options) for to, source in block})
            for block in pairs
        )

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        block: Any = self.blocks[self.at(layer)]
        if not streams:
            return text, streams
        found = torch.stack([block[f"text<-{name}"](text, tokens, step) for name, tokens in streams.items()])  # [M, R, T, W]
        here = torch.stack([tokens.present for tokens in streams.values()])[..., None, None]  # [M, R, 1, 1]
        mean = (found * here).sum(0) / here.sum(0).clamp_min(1)
        if layer != self.layers[-1]:
            heard = readable(text, step)
            streams = self.kept(
                layer,
                streams,
                step,
                lambda: {n: replace(t, values=block[f"{n}<-text"](t, heard, step), memo={}) for n, t in unshared(streams).items()},
            )
        return replace(text, values=torch.where(here.any(0), mean, text.values)), streams


class AlphaRead(nn.Module):
    """[R, T, W] -> the formula's result, or h itself in the rows whose source is absent."""

    def __init__(self, attention: Attention, width: int, options: Any):
        super().__init__()
        self.form, self.align, self.attention = options.form, options.align, attention
        self.raw = nn.Parameter(torch.tensor(math.log(options.alpha / (1 - options.alpha))))
        self.norm, self.norm_source = (nn.LayerNorm(width) if options.norm else nn.Identity() for _ in range(2))
        resamples = options.form == "printed" and options.align == "resample"
        self.resampler = Attention(width, attention.heads) if resamples else None

    def forward(self, target: Tokens, source: Tokens, step: Step) -> Tensor:
        alpha = self.raw.sigmoid()
        read = self.attention(self.norm(target.values), [(source, self.norm_source(source.values))], step)
        if self.form == "convex":
            result = alpha * read + (1 - alpha) * target.values
        else:
            result = read + (1 - alpha) * (target.values + self.aligned(target, source, step))
        return torch.where(source.present[:, None, None], result, target.values)

    def aligned(self, target: Tokens, source: Tokens, step: Step) -> Tensor:
        """The source at the target's length: [R, T, W], or [R, 1, W] for all places alike."""
        rows = source.by_row()
        if self.align == "pool":
            return rows.pooled().unsqueeze(1)
        if self.align == "interpolate":
            return interpolate(rows, target)
        normed = self.norm_source(rows.values)
        if self.resampler is not None:
            return self.resampler(self.norm(target.values), [(replace(rows, memo={}), normed)], step)
        query, key = self.attention.split(self.attention.query(self.norm(target.values))), self.attention.split(self.attention.key(normed))
        scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~rows.mask[:, None, None], -torch.inf)
        return scores.softmax(-1).nan_to_num(0.0).mean(1) @ rows.values  # a row with nothing to read: NaN, then 0


def interpolate(source: Tokens, target: Tokens) -> Tensor:
    """Linear interpolation of the visible source tokens at the places of the visible target tokens, [R, T, W]."""
    order = (~source.mask).long().argsort(dim=1, stable=True)  # visible ones first
    values = source.values.gather(1, order.unsqueeze(-1).expand_as(source.values))
    place = (target.mask.long().cumsum(1) - 1).clamp_min(0)
    last = (source.mask.sum(1, keepdim=True) - 1).clamp_min(0)
    at = place * last / (target.mask.sum(1, keepdim=True) - 1).clamp_min(1)  # [R, T]
    low = at.floor().long()
    high, part = torch.minimum(low + 1, last), (at - low).unsqueeze(-1).to(values.dtype)

    def take(index: Tensor) -> Tensor:
        return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))

    return take(low) * (1 - part) + take(high) * part
