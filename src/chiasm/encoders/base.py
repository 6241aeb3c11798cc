"""What an encoder is: the tensors of one modality -> Tokens.

Any transformers architecture of the modality works by pretrained name or by `arch`, without a file of its own; a file here is one modality.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import transformers
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from chiasm.types import RecipeError, Tokens

UNLISTED = {"siglip_text_model": "SiglipTextModel"}  # architectures that AutoModel does not know
CHANNELS_LAST: Any = torch.channels_last  # of convolution kernels and pictures: 1.2 to 1.7 times as fast on a CPU, same shapes


class Options(BaseModel):
    """Keys of `encoders.NAME` that are the encoder's own (model, arch, connector and train are read elsewhere)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Encoder(nn.Module):
    """Tensors [U, ...] of one input -> Tokens [U, L, width].

    `network` is the transformers model, or None for a modality that needs none; its pretrained weights are loaded by the caller.
    `num_tokens` (None: varies), `width` and `has_positions` are what fusions and connectors need to know.
    """

    Options = Options
    needs_network: ClassVar[bool] = True  # whether the recipe must name a `model` or an `arch`

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        super().__init__()
        self.options, self.modality = options, modality
        self.network: Any = None if config is None else network_of(config, pooled=getattr(options, "pooled", False))
        if self.network is not None and all(p.ndim < 5 for p in self.network.parameters()):  # kernels over time have no such layout
            self.network = self.network.to(memory_format=CHANNELS_LAST)
        self.width: int = 0
        self.num_tokens: int | None = None
        self.has_positions: bool = True

    @classmethod
    def modality_options(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """What the input's options should be for a network of this config, where the recipe does not say."""
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are in; media tensors arrive in float32."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    def forward(self, **tensors: Tensor) -> Tokens:
        raise NotImplementedError


def network_of(config: PreTrainedConfig, *, pooled: bool = False) -> PreTrainedModel:
    """A fresh transformers model of a config; without a pooler (it would never get a gradient) unless `pooled`."""
    if config.model_type in UNLISTED:
        return getattr(transformers, UNLISTED[config.model_type])(config)
    if pooled:
        return AutoModel.from_config(config)
    try:
        return AutoModel.from_config(config, add_pooling_layer=False)
    except TypeError:
        return AutoModel.from_config(config)


def pooled_output(output: Any, config: PreTrainedConfig) -> Tensor:
    """A network's own pooled output [U, W]; RecipeError where it has none."""
    if (vectors := getattr(output, "pooler_output", None)) is None:
        raise RecipeError(f"arch {config.model_type}: it has no pooled output of its own; leave the encoder's `pooled` out")
    return vectors.flatten(1)


def pooled_tokens(output: Any, config: PreTrainedConfig) -> Tokens:
    """The pooled output as the only token of each unit."""
    values = pooled_output(output, config).unsqueeze(1)
    mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return Tokens(values, mask, item=torch.zeros_like(mask, dtype=torch.long))


def width_of(config: PreTrainedConfig) -> int:
    """Width of the last hidden state, under whichever name the architecture keeps it."""
    for name in ("hidden_size", "hidden_sizes", "d_model", "num_features", "embed_dim"):
        value = getattr(config, name, None)
        if value:
            return int(value[-1] if isinstance(value, list | tuple) else value)
    raise RecipeError(f"arch {config.model_type}: its config does not say how wide its output is (no hidden_size or d_model)")


def pool_time(values: Tensor, lengths: Tensor, tokens: int) -> Tensor:
    """[U, L, W] -> [U, tokens, W]: each clip's first `lengths` [U] tokens averaged in equal stretches."""
    steps, lengths = torch.arange(tokens, device=values.device), lengths.clamp_min(1).unsqueeze(1)
    begin = steps * lengths // tokens  # [U, tokens]
    end = -(-(steps + 1) * lengths // tokens)
    place = torch.arange(values.shape[1], device=values.device)
    inside = (place >= begin.unsqueeze(-1)) & (place < end.unsqueeze(-1))  # [U, tokens, L]
    return (inside / inside.sum(-1, keepdim=True)).to(values.dtype) @ values
