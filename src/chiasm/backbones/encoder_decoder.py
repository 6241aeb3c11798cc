"""A T5 or BART: an encoder reads the prompt both ways, a decoder writes. T5, mT5, BART, mBART, Pegasus, Marian, M2M100 and their like.

Two choices are ours. Streams that meet the decoder read the encoder's output, never the decoder's tokens: those are what is being written,
and a stream that read one would tell it to the ones before. Early fusion enters the prompt, hence the encoder, whichever side is named.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from chiasm.backbones.base import Backbone, last_visible
from chiasm.backbones.base import Options as BaseOptions
from chiasm.types import RecipeError, Tokens

UNLIKE = (
    "prophetnet",  # predicts several futures at once
    "fsmt",  # no ordinary word head
    "led",  # lengthens its text to whole windows, and wants to be told which tokens attend globally
    "seamless_m4t",  # speech as well
    "seamless_m4t_v2",
)


class EncoderDecoder(Backbone):
    """An encoder reads the prompt, a decoder writes the target; `side` names the half whose layers the fusion meets.

    - `decoder`: what is written reads the streams, between the decoder's layers or through the cross-attention that the architecture has
      itself (`weights: backbone` of cross_attention; streams then stand behind the encoder's output). Streams read the encoded prompt.
    - `encoder`: prompt and streams meet between the encoder's layers, once for all that is then written.

    Early fusion puts tokens into the prompt, which the encoder reads, on either side; late fusion gets the decoder's output.

    Classifiers and regressors read what T5ForSequenceClassification and BartForSequenceClassification read: the prompt goes into the
    encoder and, shifted right, into the decoder, whose last token is pooled.
    """

    class Options(BaseOptions):
        side: Literal["encoder", "decoder"] = "decoder"
        """Whose layers the fusion meets."""

    generates: ClassVar[bool] = True
    placeholders_first: ClassVar[bool] = True  # PaLI's and BLIP-2's order
    has_encoder: ClassVar[bool] = True

    @classmethod
    def build(cls, options: Any, config: PreTrainedConfig) -> nn.Module:
        network: Any = super().build(options, config)
        if options.embedding_std is not None:
            for half in (network.get_encoder(), network.get_decoder()):  # an untied BART's have words of their own
                nn.init.normal_(half.get_input_embeddings().weight, std=options.embedding_std)
        return network

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        super().check(config)
        two = not getattr(config, "share_encoder_decoder_embeddings", True)  # vocabularies
        text = config.get_text_config() is config and type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
        if two or not text or config.model_type in UNLIKE:
            raise RecipeError(
                f"backbone {config.model_type}: {'has two vocabularies' if two else 'not a text-to-text model of the usual build'}; "
                "use e.g. t5, mt5, bart, mbart, pegasus or m2m_100"
            )

    @property
    def stack(self) -> Any:
        return self.encoder if self.options.side == "encoder" else self.decoder

    @property
    def encoder(self) -> Any:
        return self.network.get_encoder()

    @property
    def decoder(self) -> Any:
        return self.network.get_decoder()

    @property
    def sizes(self) -> PreTrainedConfig:
        return self.stack.config.get_text_config(**{self.options.side: True})

    @property
    def one_way(self) -> bool:
        return self.options.side == "decoder"

    @property
    def embedding_std(self) -> float:
        config = self.network.config
        return getattr(config, "init_std", getattr(config, "initializer_factor", 0.02))  # BART's, T5's

    @property
    def output_scale(self) -> float:
        """T5's word head reads output * width ** -0.5 where it was made for tied embeddings (Raffel et al., 2020), 1.1's as it is."""
        config = self.network.config
        same = config.tie_word_embeddings if config.model_type in ("umt5", "switch_transformers") else False
        return config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", same) else 1.0

    @property
    def has_output_bias(self) -> bool:
        return hasattr(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(self.network.config)], "_resize_final_logits_bias")

    def embed(self, input_ids: Tensor | None, rows: int) -> Tensor:
        """[R, S] -> [R, S, W]: the encoder's word embeddings, as large as it wants them."""
        assert input_ids is not None
        words = self.encoder.get_input_embeddings()
        scale = 1.0 if hasattr(words, "embed_scale") else getattr(self.encoder, "embed_scale", 1.0)
        return words(input_ids) * scale

    def listen(self, values: Tensor, mask: Tensor, **kwargs: Any) -> Any:
        """The embedded prompt [R, S, W] and its mask [R, S] -> the encoder's output, with `last_hidden_state` [R, S, W]."""
        return self.encoder(inputs_embeds=values, attention_mask=mask.long(), return_dict=True, **kwargs)

    def write(self, ids: Tensor, mask: Tensor, memory: Tokens, **kwargs: Any) -> Any:
        """What is written so far [R, T] and what is read with it -> the decoder's output, with `last_hidden_state` [R, T, W]."""
        read = {"encoder_hidden_states": memory.values, "encoder_attention_mask": memory.mask.long()}
        return self.decoder(input_ids=ids, attention_mask=mask.long(), return_dict=True, **read, **kwargs)

    def shifted(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[R, T] -> [R, T]: each token where the next one is to be written; the first place of a row has the token that starts decoding."""
        moved = torch.cat([ids[:, :1], ids[:, :-1]], 1)
        first = mask & (mask.long().cumsum(1) == 1)
        return torch.where(first, self.network.config.decoder_start_token_id, moved)

    def read(self, ids: Tensor, mask: Tensor) -> Tokens:
        heard = self.listen(self.embed(ids, len(ids)), mask).last_hidden_state
        return Tokens(self.write(self.shifted(ids, mask), mask, Tokens(heard, mask)).last_hidden_state, mask)

    def pool(self, tokens: Tokens, words: Tensor | None = None) -> Tensor:
        return last_visible(tokens)
