"""A whole vision-language model: it reads text and pictures itself. LLaVA, Idefics3, SmolVLM, Gemma 3, Qwen-VL and their like.

- Pictures reach it as its own processor makes them (`chiasm.reading`), with its own positions; its vision tower is a part of it.
- Fusions bring what it does not read (sound, a table, features) to the layers of its language model, which are a GPT's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from chiasm.backbones.base import Backbone, last_visible
from chiasm.backbones.base import Options as BaseOptions
from chiasm.types import RecipeError, Tokens

OF_TEXT = (
    "self",
    "input_ids",
    "attention_mask",
    "position_ids",
    "past_key_values",
    "inputs_embeds",
    "use_cache",
    "labels",
    "cache_position",
)
OF_OUTPUT = ("kwargs", "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep")
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")  # Qwen-VL's name, Gemma 3's: which token is of a picture


class VisionLanguage(Backbone):
    """Each token sees the ones before it, as in a GPT (Gemma 3: and those of its own picture). `network` is transformers' base model."""

    class Options(BaseOptions):
        chat: bool | None = None
        """Whether a prompt is a user's turn in its own chat template, and the target the answer. false: the prompt as it is written, with
        each picture in place of {image} or in front. true where the model has a template, if not given."""
        pictures: dict[str, Any] = {}
        """Settings of its image processor to change, e.g. {do_image_splitting: false}: how many tokens a picture takes is decided there."""
        vision: Literal["none", "all"] = "none"
        """The most of its vision tower and projector that may train; `train` is about its language model."""

    causal: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    placeholders_first: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("image",)

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        super().check(config)
        if config.get_text_config() is config or not hasattr(config, "vision_config"):
            raise RecipeError(f"backbone.kind: {config.model_type} is no vision-language model; leave `kind` out")

    @property
    def stack(self) -> Any:
        return self.network.get_decoder()

    @property
    def adapted(self) -> Any:
        return self.stack

    @property
    def media(self) -> list[nn.Module]:
        return [child for child in self.network.children() if child is not self.stack]

    @property
    def arguments(self) -> frozenset[str]:
        return frozenset(parameters_of(type(self.network).forward)).difference(OF_TEXT, OF_OUTPUT)

    def embed(self, input_ids: Tensor | None, rows: int) -> Tensor:
        """[R, T] -> [R, T, W], without pictures; some models keep the token that stands for them outside their vocabulary."""
        assert input_ids is not None
        words = self.network.get_input_embeddings()
        return words(input_ids.clamp_max(words.weight.shape[0] - 1))

    def run(
        self,
        values: Tensor,
        mask: Tensor,
        memory: Tokens | None,
        *,
        input_ids: Tensor | None = None,
        position_ids: Any = None,
        **kwargs: Any,
    ) -> Any:
        """input_ids [R, T] with what else it reads (pixel_values, ...) -> its output; `values` [R, T, W] where there are no ids."""
        past = kwargs.get("past_key_values")
        begins = past is None or past.get_seq_length() == 0
        if input_ids is None:
            return self.network(inputs_embeds=values, attention_mask=mask.long(), position_ids=position_ids, **kwargs)
        if begins:
            kwargs = {**self.token_types(input_ids), **kwargs}
        if position_ids is None:
            if not begins and self.has_axes:
                raise TypeError(f"position_ids: a {self.network.config.model_type} needs them to go on from past_key_values")
            position_ids = self.positions(input_ids, mask, kwargs)[..., -input_ids.shape[1] :]
        return self.network(input_ids=input_ids, attention_mask=mask.long(), position_ids=position_ids, **kwargs)

    def see(self, media: Mapping[str, Any]) -> Any:
        """Its pictures alone -> what its vision tower makes of them, as `run` takes it under `mm_encoder_outputs`."""
        known = parameters_of(type(self.network).get_image_features)
        return self.network.get_image_features(**{key: value for key, value in media.items() if key in known}, return_dict=True)

    @property
    def has_axes(self) -> bool:
        """Whether positions have several axes (time, height and width, as Qwen-VL's)."""
        return hasattr(self.network, "get_rope_index")

    def token_types(self, input_ids: Tensor) -> dict[str, Tensor]:
        """What tells the tokens of pictures from text [R, T], under the architecture's name for it; nothing where it has none."""
        name = next((name for name in TOKEN_TYPES if name in self.arguments), None)
        if name is None:
            return {}
        config, types = self.network.config, torch.zeros_like(input_ids)
        for number, token in enumerate((config.image_token_id, getattr(config, "video_token_id", None)), 1):
            types = types if token is None else types.masked_fill(input_ids == token, number)
        return {name: types}

    def positions(self, input_ids: Tensor, mask: Tensor, media: Mapping[str, Any]) -> Tensor:
        """Where each token stands: [R, S] counted over the mask's visible tokens; or its own [3, R, T] time, height and width."""
        if not self.has_axes:
            return (mask.long().cumsum(1) - 1).clamp_min(0)
        known = parameters_of(type(self.network).get_rope_index)
        given = {key: value for key, value in {**self.token_types(input_ids), **media}.items() if key in known}
        return self.network.get_rope_index(input_ids, attention_mask=mask.long(), **given)[0]

    def read(self, ids: Tensor, mask: Tensor) -> Tokens:
        return Tokens(self.run(self.embed(ids, len(ids)), mask, None, input_ids=ids).last_hidden_state, mask)

    def pool(self, tokens: Tokens, words: Tensor | None = None) -> Tensor:
        return last_visible(tokens)


@cache
def parameters_of(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)
