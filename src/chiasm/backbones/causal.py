"""A GPT: each token sees the ones before it. GPT-2, OPT, Llama, Qwen, Gemma, SmolLM and any other transformers causal LM."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from chiasm.backbones.base import Backbone, last_visible
from chiasm.backbones.base import Options as BaseOptions
from chiasm.types import RecipeError, Tokens


class Causal(Backbone):
    """Positions are counted over visible tokens, so that padding on either side changes nothing.

    A BERT is one where its configuration says `is_decoder: true`; its words are then made by its own head, with a transform and a bias.
    """

    class Options(BaseOptions):
        start_token: str | None = None
        """The token in front of every text, e.g. "</s>", or "" for none; the tokenizer's CLS or BOS if not given."""
        as_written: bool = False
        """Tokenise a prompt as one text, as chat models were trained; false: a space ahead of a field belongs to the word behind it."""

    causal: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    placeholders_first: ClassVar[bool] = True

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        super().check(config)
        if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
            raise RecipeError(
                f"backbone.kind: causal, but each token of {config.model_type} sees all others; write is_decoder: true, or leave `kind` out"
            )

    @property
    def word_transform(self) -> nn.Module | None:
        return BertPredictionHeadTransform(self.network.config) if self.network.config.model_type == "bert" else None

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        if kwargs.get("position_ids") is None:
            counted = (mask.long().cumsum(1) - 1).clamp_min(0)
            kwargs["position_ids"] = counted[:, -values.shape[1] :]
        past = kwargs.get("past_key_values")
        if memory is not None and past is not None and not isinstance(past, EncoderDecoderCache):
            kwargs["past_key_values"] = EncoderDecoderCache(
                past, DynamicCache()
            )  # what is read is kept beside what is written; BERT insists
        if past is not None and values.shape[1] == 1 and not torch.compiler.is_compiling() and mask.all():
            kwargs["attention_mask"] = None  # one more token behind whole rows sees everything: no mask has to be made
        return super().run(values, mask, memory, **kwargs)

    def pool(self, tokens: Tokens, words: Tensor | None = None) -> Tensor:
        return last_visible(tokens)
