"""Texts -> tokens, through any transformers model that reads token ids: BERT, RoBERTa, GPT-2 as an encoder, the encoder of T5 or BART."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from chiasm.encoders.base import Encoder, network_of, pooled_tokens, width_of
from chiasm.encoders.base import Options as BaseOptions
from chiasm.types import RecipeError, Tokens

LONGEST = 512  # tokens of a text, where the network has room for more and the recipe does not ask for more


class TextEncoder(Encoder):
    """token_ids [U, L] and their mask -> Tokens [U, L, width]."""

    class Options(BaseOptions):
        pooled: bool = False
        """One token, the network's own pooled output, in place of one for each of the text's (CLIP's and SigLIP's vector of a text)."""

    def __init__(self, options: Any, config: PreTrainedConfig | None, modality: Any):
        assert config is not None, "a text encoder needs a transformers config"
        config = text_half(config)
        super().__init__(options, config, modality)
        self.network = reader(self.network)
        self.network.config.use_cache = False
        rows, most = len(self.network.get_input_embeddings().weight), positions(self.network)
        if modality.vocab_size > rows:
            raise RecipeError(
                f"encoder {config.model_type}: its tokenizer has {modality.vocab_size} entries and its vocabulary {rows}; "
                "give the input the encoder's own `tokenizer`, or the encoder a larger vocab_size"
            )
        if most is not None and modality.options.max_tokens > most:
            raise RecipeError(f"encoder {config.model_type}: it has positions for {most} tokens; write max_tokens: {most} in the input")
        self.width = width_of(config)
        if options.pooled:
            self.width, self.num_tokens = getattr(config, "projection_size", None) or self.width, 1

    @classmethod
    def modality_options(cls, config: PreTrainedConfig) -> dict[str, Any]:
        with torch.device("meta"):  # no weights, only their shapes
            most = positions(reader(network_of(text_half(config))))
        return {"max_tokens": min(most or LONGEST, LONGEST)}

    def forward(self, **tensors: Tensor) -> Tokens:
        assert self.network is not None
        mask = tensors["token_mask"]
        output = self.network(input_ids=tensors["token_ids"], attention_mask=mask.long())
        if self.options.pooled:
            return pooled_tokens(output, self.network.config)
        return Tokens(output.last_hidden_state, mask, item=torch.zeros_like(mask, dtype=torch.long))


def text_half(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of a model of two towers (CLIP) the config of the one that reads text."""
    return getattr(config, "text_config", config) if hasattr(config, "vision_config") else config


def reader(network: Any) -> Any:
    """The network itself, or the encoder of an encoder-decoder; RecipeError where it does not read token ids."""
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    if network.main_input_name != "input_ids":
        raise RecipeError(f"arch {network.config.model_type} reads {network.main_input_name}, not text; take a text model, e.g. arch: bert")
    return network


def positions(network: nn.Module) -> int | None:
    """How many tokens the network has learned positions for; None where it counts distances and any length will do."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding) and ("position" in name.rpartition(".")[2] or name.endswith("wpe")):
            before = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from behind the padding's id
            rows = module.num_embeddings - before
            return min(rows, getattr(network.config, "max_position_embeddings", None) or rows)
    return None
