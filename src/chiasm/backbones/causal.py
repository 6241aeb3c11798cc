"""A GPT: each token sees the ones before it. GPT-2, OPT, Llama, Qwen, Gemma, SmolLM and any other transformers causal LM."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from chiasm.backbones.base import Backbone, last_visible
from chiasm.types import Tokens


class Causal(Backbone):
    """Positions are counted over visible tokens, so that padding on either side changes nothing."""

    causal: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    placeholders_first: ClassVar[bool] = True

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        if kwargs.get("position_ids") is None:
            counted = (mask.long().cumsum(1) - 1).clamp_min(0)
            kwargs["position_ids"] = counted[:, -values.shape[1] :]
        return super().run(values, mask, memory, **kwargs)

    def pool(self, tokens: Tokens) -> Tensor:
        return last_visible(tokens)
