"""CLIP: a picture's class token and a text's end token, each projected, compared by cosine and a learned temperature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.convert.base import Weights
from chiasm.convert.towers import Towers, words_of


class Clip(Towers):
    """Two towers with projections that have no bias."""

    classes = ("CLIPModel",)

    def connectors(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"type": "linear", "bias": False}, {"type": "linear", "bias": False}

    @property
    def width(self) -> int:
        return self.config.projection_dim

    def loss(self) -> dict[str, Any]:
        return {}

    def move(self, weights: Weights, model: Any) -> None:
        weights.part("visual_projection.", "model.connectors.image.layer.")
        weights.part("text_projection.", "model.connectors.caption.layer.")
        super().move(weights, model)

    def texts(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return words_of(self.config.text_config, draw, [6, 3, 5, 2])
