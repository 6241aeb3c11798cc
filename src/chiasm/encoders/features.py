"""Ready-made feature vectors -> tokens, one per vector."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

from chiasm.encoders.base import Encoder, pool_time
from chiasm.encoders.base import Options as BaseOptions
from chiasm.types import RecipeError, Tokens


class Features(Encoder):
    """features [U, L, W] and their mask -> Tokens [U, L, W], as they are (the modality normalised them)."""

    class Options(BaseOptions):
        tokens: Annotated[int, Field(ge=1)] | None = None
        """Average every sequence to this many tokens (1 for single vectors); early fusion needs a fixed number."""
        places: Annotated[int, Field(ge=1)] | None = None
        """Room for this many vectors, of which those that a sequence lacks are hidden (VisualBERT's regions); also a fixed number."""

    needs_network: ClassVar[bool] = False

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        super().__init__(options, None, modality)
        if options.tokens and options.places:
            raise RecipeError("encoders.features: tokens averages to a number, places pads to one; keep one of them")
        self.width, self.num_tokens = modality.width, options.tokens or options.places
        self.has_positions = options.tokens is None  # without a fixed number there are no places to learn

    def forward(self, **tensors: Tensor) -> Tokens:
        values, mask = tensors["features"], tensors["features_mask"]
        if self.options.tokens:
            values = pool_time(values.masked_fill(~mask.unsqueeze(-1), 0.0), mask.sum(1), self.options.tokens)
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        if (most := self.options.places) is not None:
            values = functional.pad(values[:, :most], (0, 0, 0, most - min(most, values.shape[1])))
            mask = functional.pad(mask[:, :most], (0, most - min(most, mask.shape[1])))
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long))
