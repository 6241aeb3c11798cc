"""Ready-made feature vectors -> tokens, one per vector."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedConfig

from chiasm.encoders.base import Encoder, pool_time
from chiasm.encoders.base import Options as BaseOptions
from chiasm.types import Tokens


class Features(Encoder):
    """features [U, L, W] and their mask -> Tokens [U, L, W], as they are (the modality normalised them)."""

    class Options(BaseOptions):
        tokens: Annotated[int, Field(ge=1)] | None = None
        """Average every sequence to this many tokens (1 for single vectors); early fusion needs a fixed number."""

    needs_network: ClassVar[bool] = False

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        super().__init__(options, None, modality)
        self.width, self.num_tokens = modality.width, options.tokens
        self.has_positions = options.tokens is None  # without a fixed number there are no places to learn

    def forward(self, **tensors: Tensor) -> Tokens:
        values, mask = tensors["features"], tensors["features_mask"]
        if self.options.tokens:
            values = pool_time(values.masked_fill(~mask.unsqueeze(-1), 0.0), mask.sum(1), self.options.tokens)
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long))
