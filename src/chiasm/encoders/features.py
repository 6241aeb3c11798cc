"""Ready-made feature vectors -> tokens, one per vector."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from chiasm.encoders.base import Encoder
from chiasm.types import Tokens


class Features(Encoder):
    """features [U, L, W] and their mask -> Tokens [U, L, W], as they are (the modality normalised them)."""

    needs_network: ClassVar[bool] = False

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        super().__init__(options, None, modality)
        self.width = modality.width

    def forward(self, **tensors: Tensor) -> Tokens:
        mask = tensors["features_mask"]
        return Tokens(tensors["features"], mask, item=torch.zeros_like(mask, dtype=torch.long))
