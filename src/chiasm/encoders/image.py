"""Pictures -> tokens, through any transformers vision model: patches of a transformer, or the cells of a convolutional feature map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from chiasm.encoders.base import CHANNELS_LAST, Encoder, width_of
from chiasm.encoders.vision import VisionOptions, measure, picture_tokens, prepare
from chiasm.types import Tokens


class Image(Encoder):
    """pixel_values [U, 3, height, width] -> Tokens [U, L, width], with the patches' grid where it is regular."""

    Options = VisionOptions

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        assert config is not None, "an image encoder needs a transformers config"
        config = getattr(config, "vision_config", config)
        super().__init__(options, config, modality)
        prepare(self.network, options)
        self.width = width_of(config)
        self.num_tokens, self.has_positions = measure(self.network, config, options)

    def forward(self, **tensors: Tensor) -> Tokens:
        pixels = tensors["pixel_values"].to(self.dtype, memory_format=CHANNELS_LAST)
        values, grid = picture_tokens(self.network, pixels, self.options)
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long), grid=grid)
