"""What a backbone is: how a transformers language model (or fresh latents) is found, run, and pooled.

A backbone is a plain object around `network`, so that the model's module tree and checkpoint keys are those of transformers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from chiasm.encoders.base import network_of
from chiasm.types import RecipeError, Tokens


class Options(BaseModel):
    """Keys of `backbone:` that are the backbone's own (model, arch, tokenizer and train are read elsewhere)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    embedding_std: float | None = None
    """Spread of fresh word embeddings; the architecture's own if not given. width ** -0.5 suits words that pictures are compared with."""


class Backbone:
    """Runs `network` over embedded tokens and says how to read its output."""

    Options = Options
    causal: ClassVar[bool] = False
    reads_text: ClassVar[bool] = True
    generates: ClassVar[bool] = False
    placeholders_first: ClassVar[bool] = False  # where an input without a placeholder stands: in front, or after the text

    def __init__(self, options: Any, network: Any):
        self.options, self.network = options, network

    @classmethod
    def build(cls, options: Any, config: PreTrainedConfig) -> nn.Module:
        """A fresh network of `config`, headless and without a pooler."""
        network: Any = network_of(config)
        if options.embedding_std is not None:
            nn.init.normal_(network.get_input_embeddings().weight, std=options.embedding_std)
        return network

    @property
    def layers(self) -> nn.ModuleList:
        """The network's own list of layers, ahead of which fusions hook in."""
        return layer_list(self.network)

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """The network's own cross-attentions, where it was built with them."""
        return [module for name, module in self.network.named_modules() if name.endswith(".crossattention")]

    def embed(self, input_ids: Tensor | None, rows: int) -> Tensor:
        """[R, T] -> [R, T, W]: the network's own word embeddings."""
        assert input_ids is not None
        return self.network.get_input_embeddings()(input_ids)

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        """Embedded tokens [R, T, W] and mask [R, T] -> transformers output with `last_hidden_state` [R, T, W]."""
        if memory is not None:
            kwargs |= {"encoder_hidden_states": memory.values, "encoder_attention_mask": memory.mask.long()}
        return self.network(inputs_embeds=values, attention_mask=mask.long(), **kwargs)

    def pool(self, tokens: Tokens) -> Tensor:
        """[R, T, W] -> [R, W]: what a classifier reads."""
        return tokens.pooled()


def layer_list(network: Any) -> nn.ModuleList:
    """The module list whose length is the config's number of layers; every architecture has one, under a name of its own."""
    count = network.config.get_text_config().num_hidden_layers
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(m) for m in module}) == 1:
            return module
    raise RecipeError(f"backbone {network.config.model_type}: found no list of {count} layers; use fusion: early or late with it")


def last_visible(tokens: Tokens) -> Tensor:
    """[R, T, W] -> [R, W]: the last real token of each row."""
    positions = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    last = (tokens.mask * positions).argmax(1)
    return tokens.values[torch.arange(len(last), device=last.device), last]
