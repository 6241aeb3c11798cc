"""What the model's forward returns, under the names that transformers gives these things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, ModelOutput


@dataclass
class ChiasmOutput(ModelOutput):
    """What `forward` returns; `fused` holds the branches that task heads read."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    fused: Any = None


@dataclass
class ChiasmSeq2SeqOutput(ChiasmOutput):
    """What `forward` returns for an encoder-decoder: transformers' names for what its decoder did; the encoder's output beside it."""

    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None


@dataclass
class ChiasmEncoderOutput(BaseModelOutput):
    """What an encoder-decoder's encoder returns; `attention_mask` [R, S] says which places of the prompt it saw."""

    attention_mask: Tensor | None = None
