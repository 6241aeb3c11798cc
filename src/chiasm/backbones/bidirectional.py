"""A BERT: every token sees every other. BERT, RoBERTa, DistilBERT, ELECTRA and other transformers encoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chiasm.backbones.base import Backbone, can_be_told_positions, positions_of
from chiasm.types import Tokens


class Bidirectional(Backbone):
    """Reads text both ways; cannot generate. Inputs without a placeholder stand after the text (VisualBERT's order)."""

    @property
    def takes_positions(self) -> bool:
        return can_be_told_positions(self.network)

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        positions = positions_of(self.network, kwargs.pop("position_ids", None))
        kwargs = {k: v for k, v in kwargs.items() if k not in ("past_key_values", "use_cache")}
        return super().run(values, mask, memory, **kwargs, **positions)
