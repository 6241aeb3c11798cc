"""A BERT: every token sees every other. BERT, RoBERTa, DistilBERT, ELECTRA and other transformers encoders."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from chiasm.backbones.base import Backbone, can_be_told_positions, positions_of
from chiasm.backbones.base import Options as BaseOptions
from chiasm.types import RecipeError, Tokens


class Bidirectional(Backbone):
    """Reads text both ways; cannot generate. Inputs without a placeholder stand after the text (VisualBERT's order)."""

    class Options(BaseOptions):
        pool: Literal["mean", "first", "pooler", "last_word"] = "mean"
        """What a classifier reads: the mean of all tokens, the first ([CLS]), that one through the architecture's own pooler (BERT's tanh
        layer), or the last word of the text, ahead of its end token (VisualBERT's answers)."""

    @classmethod
    def build(cls, options: Any, config: PreTrainedConfig) -> nn.Module:
        network: Any = super().build(options, config)
        if options.pool == "pooler" and getattr(network, "pooler", None) is None:
            raise RecipeError(f"backbone.pool: {config.model_type} has no pooler of its own; use pool: first, or mean")
        return network

    @property
    def takes_positions(self) -> bool:
        return can_be_told_positions(self.network)

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        positions = positions_of(self.network, kwargs.pop("position_ids", None))
        kwargs = {k: v for k, v in kwargs.items() if k not in ("past_key_values", "use_cache")}
        return super().run(values, mask, memory, **kwargs, **positions)

    def pool(self, tokens: Tokens, words: Tensor | None = None) -> Tensor:
        if self.options.pool == "mean":
            return tokens.pooled()
        words = tokens.mask if words is None else words & tokens.mask
        nth = 1 if self.options.pool != "last_word" else (words.sum(1, keepdim=True) - 1).clamp_min(1)  # counted from 1
        place = ((words.cumsum(1) == nth) & words).int().argmax(1)
        chosen = tokens.values[torch.arange(len(place), device=place.device), place]  # [R, W]
        return self.network.pooler(chosen.unsqueeze(1)) if self.options.pool == "pooler" else chosen
