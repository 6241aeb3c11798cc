"""SigLIP: two towers with pooling of their own, compared pair by pair through a sigmoid with a learned temperature and bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.convert.base import Weights, random_ids
from chiasm.convert.towers import Towers


class Siglip(Towers):
    """Every text is filled up to the length that the model was trained with, and its padding is read."""

    classes = ("SiglipModel",)
    filled = True

    def check(self) -> None:
        if not getattr(self.config.vision_config, "vision_use_head", True):
            self.refuse("vision_config.vision_use_head", "false: without its pooling the model has no vector of a picture")
        if self.config.text_config.projection_size != self.config.vision_config.hidden_size:
            self.refuse("text_config.projection_size", "not the width of the vision tower, so that nothing can be compared")

    def connectors(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"type": "linear", "always": False}, {"type": "linear", "always": False}

    @property
    def width(self) -> int:
        return self.config.vision_config.hidden_size

    def loss(self) -> dict[str, Any]:
        return {"loss": "sigmoid", "max_scale": None}

    def move(self, weights: Weights, model: Any) -> None:
        weights.target["heads.align.bias.value"] = weights.take("logit_bias").reshape(())
        super().move(weights, model)

    def texts(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        text = self.config.text_config
        ids, mask = random_ids(text.vocab_size, [text.max_position_embeddings] * 4, draw, avoid=set())
        ids[1, text.max_position_embeddings // 2 :] = text.pad_token_id or 0
        return ids, mask
