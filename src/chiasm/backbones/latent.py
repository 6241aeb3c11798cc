"""Where there is no text: a few learned latents that read the streams through a small transformer (Perceiver, Jaegle et al., 2021)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from chiasm.backbones.base import Backbone, can_be_told_positions, positions_of
from chiasm.backbones.base import Options as BaseOptions
from chiasm.encoders.base import network_of
from chiasm.types import Tokens


class Latent(Backbone):
    """The sequence is `latents` learned vectors, followed by whatever early fusion adds."""

    class Options(BaseOptions):
        latents: Annotated[int, Field(ge=0)] = 4
        """How many learned vectors stand where the text would; 0: no backbone, only encoders that a contrastive task compares (CLIP)."""

    reads_text: ClassVar[bool] = False

    @classmethod
    def build(cls, options: Any, config: PreTrainedConfig) -> nn.Module:
        return LatentNetwork(options.latents, config)

    @property
    def takes_positions(self) -> bool:
        return self.network.encoder is not None and can_be_told_positions(self.network.encoder)

    def embed(self, input_ids: Tensor | None, rows: int) -> Tensor:
        """[R, T] ids (0 for latents, placeholder ids after them) or None -> [R, T, W]."""
        latents = self.network.latents.weight.unsqueeze(0).expand(rows, -1, -1)  # [R, latents, W]
        if input_ids is None or input_ids.shape[1] == latents.shape[1]:
            return latents
        room = latents.new_zeros(rows, input_ids.shape[1] - latents.shape[1], latents.shape[2])
        return torch.cat([latents, room], 1)

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        if self.network.encoder is None:
            return BaseModelOutput(values)
        positions = positions_of(self.network.encoder, kwargs.get("position_ids"))
        return self.network.encoder(inputs_embeds=values, attention_mask=mask.long(), **positions)

    def pool(self, tokens: Tokens, words: Tensor | None = None) -> Tensor:
        return tokens.values[:, : self.options.latents].mean(1)


class LatentNetwork(nn.Module):
    """Learned latents and the transformer that mixes them with the streams."""

    def __init__(self, latents: int, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.latents = nn.Embedding(latents, config.hidden_size, _weight=torch.zeros(latents, config.hidden_size))
        self.encoder = None
        if latents:
            nn.init.normal_(self.latents.weight, std=0.02)
            self.encoder = network_of(config)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.latents
