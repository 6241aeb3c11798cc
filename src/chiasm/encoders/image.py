"""Pictures -> tokens, through any transformers vision model: patches of a transformer, or the cells of a convolutional feature map."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from chiasm.encoders.base import CHANNELS_LAST, Encoder, pooled_tokens, width_of
from chiasm.encoders.base import Options as BaseOptions
from chiasm.types import Tokens


class Image(Encoder):
    """pixel_values [U, 3, height, width] -> Tokens [U, L, width], with the patches' grid where it is regular."""

    class Options(BaseOptions):
        grid: int | None = None
        """Average a convolutional feature map to grid x grid tokens."""
        layer: int = -1
        """Which hidden layer of a transformer to take (LLaVA: -2)."""
        class_token: bool = True
        """Keep a transformer's class token among the tokens."""
        first_pooling: bool = True
        """Keep the max pooling after the first convolution of a ResNet; without it small pictures keep their detail."""
        pooled: bool = False
        """One token, the network's own pooled output, in place of its patches (CLIP's and SigLIP's vector of a picture)."""

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        assert config is not None, "an image encoder needs a transformers config"
        config = getattr(config, "vision_config", config)
        super().__init__(options, config, modality)
        if not options.first_pooling and hasattr(self.network, "embedder"):
            self.network.embedder.pooler = nn.Identity()
        self.width = width_of(config)
        self.num_tokens, self.has_positions = self._measure(config)

    def _measure(self, config: PreTrainedConfig) -> tuple[int | None, bool]:
        """(number of tokens, whether they carry positions): by arithmetic where the config says it, else unknown before a picture."""
        if self.options.pooled:
            return 1, True
        if self.options.grid:
            return self.options.grid**2, False
        patch, size = getattr(config, "patch_size", None), getattr(config, "image_size", None)
        if isinstance(patch, int) and isinstance(size, int) and not getattr(config, "hidden_sizes", None):
            names = [n for n, _ in self.network.named_parameters()] if hasattr(self.network, "embeddings") else []
            ahead = sum(any(word in n for n in names) for word in ("cls", "class_embedding", "distillation_token"))
            return (size // patch) ** 2 + ahead * self.options.class_token, True
        return None, False

    def forward(self, **tensors: Tensor) -> Tokens:
        pixels = tensors["pixel_values"].to(self.dtype, memory_format=CHANNELS_LAST)
        hidden = self.options.layer != -1
        output = self.network(pixel_values=pixels, **({"output_hidden_states": True} if hidden else {}))
        if self.options.pooled:
            return pooled_tokens(output, self.network.config)
        values = output.hidden_states[self.options.layer] if hidden else output.last_hidden_state
        if values.ndim == 4:  # a feature map [U, C, h, w]
            if self.options.grid and values.shape[-2:] != (self.options.grid, self.options.grid):
                values = functional.adaptive_avg_pool2d(values, self.options.grid)
            grid = (values.shape[-2], values.shape[-1])
            values = values.flatten(2).transpose(1, 2)  # [U, L, C]
        else:
            rows, columns = self._grid(pixels, values.shape[1])
            skipped = values.shape[1] - rows * columns
            if skipped and not self.options.class_token:
                values, skipped = values[:, skipped:], 0
            grid = (rows, columns) if skipped == 0 else None
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long), grid=grid)

    def _grid(self, pixels: Tensor, length: int) -> tuple[int, int]:
        """Rows and columns of patches, which are the last of a transformer's tokens."""
        patch = getattr(self.network.config, "patch_size", None)
        if isinstance(patch, int) and 0 <= length - (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) < 16:
            return pixels.shape[-2] // patch, pixels.shape[-1] // patch
        return math.isqrt(length), math.isqrt(length)
