"""What a backbone is: how a transformers language model (or fresh latents) is found, run, and pooled.

A backbone is a plain object around `network`, so that the model's module tree and checkpoint keys are those of transformers.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from chiasm.encoders.base import network_of
from chiasm.types import RecipeError, Tokens

CROSS_ATTENTIONS = (".crossattention", ".EncDecAttention", ".encoder_attn")  # as GPT-2 and BERT, T5, and BART and its kin call theirs


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
    has_encoder: ClassVar[bool] = False  # an encoder reads the prompt, a decoder of its own writes
    reads: ClassVar[tuple[str, ...]] = ()  # modalities that it takes in itself, in its own way

    def __init__(self, options: Any, network: Any):
        self.options, self.network = options, network

    @classmethod
    def build(cls, options: Any, config: PreTrainedConfig) -> nn.Module:
        """A fresh network of `config`, headless and without a pooler."""
        network: Any = network_of(config, pooled=getattr(options, "pool", None) == "pooler")
        if options.embedding_std is not None:
            nn.init.normal_(network.get_input_embeddings().weight, std=options.embedding_std)
        return network

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        """RecipeError where a network of this config cannot be run so."""
        if config.is_encoder_decoder != cls.has_encoder:
            halves = "an encoder and a decoder" if config.is_encoder_decoder else "no encoder and decoder of its own"
            raise RecipeError(f"backbone.kind: {config.model_type} has {halves}; leave `kind` out")

    @property
    def output_scale(self) -> float:
        """What the word head multiplies its input by."""
        return 1.0

    @property
    def has_output_bias(self) -> bool:
        """Whether the architecture adds a fixed bias to every word's logit."""
        return False

    @property
    def word_transform(self) -> nn.Module | None:
        """What the architecture puts between its output and the word head, whose bias then trains (BERT's); None: nothing."""
        return None

    @property
    def stack(self) -> Any:
        """The part of the network whose layers fusions hook into."""
        return self.network

    @property
    def media(self) -> list[nn.Module]:
        """The parts of the network that take in what is not text, of a backbone that reads more than text."""
        return []

    @property
    def adapted(self) -> Any:
        """The part of the network that low-rank adapters go into."""
        return self.network

    @property
    def arguments(self) -> frozenset[str]:
        """What `run` takes besides text, of a backbone that reads more than text."""
        return frozenset()

    @property
    def sizes(self) -> PreTrainedConfig:
        """The config that says how many layers and heads `stack` has."""
        return self.network.config.get_text_config()

    @property
    def one_way(self) -> bool:
        """Whether tokens of `stack` see only those before them."""
        return self.causal

    @property
    def layers(self) -> nn.ModuleList:
        """The network's own list of layers, ahead of which fusions hook in."""
        return layer_list(self.stack, self.sizes.num_hidden_layers)

    @property
    def takes_positions(self) -> bool:
        """Whether `run` can be told where each token stands, instead of counting them one by one."""
        return False

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """The network's own cross-attentions, where it was built with them."""
        return [module for name, module in self.stack.named_modules() if name.endswith(CROSS_ATTENTIONS)]

    @property
    def embedding_std(self) -> float:
        """How far the architecture spreads fresh word embeddings."""
        return getattr(self.network.config.get_text_config(), "initializer_range", 0.02)

    def embed(self, input_ids: Tensor | None, rows: int) -> Tensor:
        """[R, T] -> [R, T, W]: the network's own word embeddings."""
        assert input_ids is not None
        return self.network.get_input_embeddings()(input_ids)

    def run(self, values: Tensor, mask: Tensor, memory: Tokens | None, **kwargs: Any) -> Any:
        """Embedded tokens [R, T, W] and mask [R, T] -> transformers output with `last_hidden_state` [R, T, W]."""
        if memory is not None:
            kwargs |= {"encoder_hidden_states": memory.values, "encoder_attention_mask": memory.mask.long()}
        return self.network(inputs_embeds=values, **{"attention_mask": mask.long(), **kwargs})

    def read(self, ids: Tensor, mask: Tensor) -> Tokens:
        """Texts alone [N, T], past any fusion -> the output that `pool` reads."""
        return Tokens(self.run(self.embed(ids, len(ids)), mask, None).last_hidden_state, mask)

    def pool(self, tokens: Tokens, words: Tensor | None = None) -> Tensor:
        """[R, T, W] -> [R, W]: what a classifier reads. words [R, T]: which tokens are text, not a stream's; all visible ones if None."""
        return tokens.pooled()


def layer_list(network: Any, count: int) -> nn.ModuleList:
    """The module list whose length is the config's number of layers; every architecture has one, under a name of its own."""
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(m) for m in module}) == 1:
            return module
    raise RecipeError(f"backbone {network.config.model_type}: found no list of {count} layers; use fusion: early or late with it")


def can_be_told_positions(network: Any) -> bool:
    return "position_ids" in inspect.signature(network.forward).parameters


def positions_of(network: Any, position_ids: Tensor | None) -> dict[str, Tensor]:
    """The argument that gives a bidirectional network its positions, counted from 0; nothing where it is to count them itself."""
    if position_ids is None or not can_be_told_positions(network):
        return {}
    tables = [m for n, m in network.named_modules() if n.endswith("position_embeddings") and isinstance(m, nn.Embedding)]
    first = 0 if not tables or tables[0].padding_idx is None else tables[0].padding_idx + 1  # RoBERTa's first place is behind the padding's
    return {"position_ids": position_ids + first}


def last_visible(tokens: Tokens) -> Tensor:
    """[R, T, W] -> [R, W]: the last real token of each row."""
    positions = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    last = (tokens.mask * positions).argmax(1)
    return tokens.values[torch.arange(len(last), device=last.device), last]
