"""A BERT: every token sees every other. BERT, RoBERTa, DistilBERT, ELECTRA and other transformers encoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from chiasm.backbones.base import Backbone
from chiasm.types import Tokens


class Bidirectional(Backbone):
    """Reads text both ways; cannot generate. Inputs without a placeholder stand after the text (VisualBERT's order)."""

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("past_key_values", "use_cache", "position_ids")}
        return super().run(values, mask, memory, **kwargs)
