"""What transformers' `generate` asks of the model: media are encoded once, rows are routed to them, and beams share them.

`generate` runs an encoder-decoder's encoder through `get_encoder()`, past `forward`. An encoder that took token ids alone would lose every
other input there without a word; the one that is given here takes all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from chiasm.decoding import DECODING
from chiasm.outputs import ChiasmEncoderOutput
from chiasm.types import Streams

FORWARD_ARGUMENTS = frozenset(
    (
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "labels",
        "use_cache",
        "logits_to_keep",
        "streams",
        "prompt_lengths",
        "mm_encoder_outputs",
    )
)


class WholeEncoder:
    """An encoder-decoder's encoder together with its fusion. Not a module: its weights are the model's."""

    main_input_name = "input_ids"

    def __init__(self, model: Any):
        self.model = model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        streams: Streams | None = None,
        **tensors: Any,
    ) -> ChiasmEncoderOutput:
        """The prompt [R, S] and every other input, as tensors (pixel_values, ...) or routed `streams` -> what the encoder makes of them."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise TypeError("the encoder needs input_ids or inputs_embeds")
        pool, rest = self.model.pool_of(tensors)
        if streams is None:
            streams = self.model.route(self.model.encode(pool), tensors, len(given))
        return self.model.listen(input_ids, attention_mask, inputs_embeds, streams, **rest)

    __call__ = forward


class Generation(GenerationMixin):
    """GenerationMixin for a composite whose headless part is `model`."""

    def get_encoder(self: Any, modality: str | None = None) -> Any:
        """An encoder-decoder's encoder, taking all inputs; what transformers finds otherwise."""
        if modality is None and self.config.is_encoder_decoder:
            return WholeEncoder(self.model)
        return super().get_encoder(modality)

    def _prepare_position_ids_for_generation(self: Any, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """A vision-language model's own positions, with a first axis that counts tokens where they have several."""
        counted = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        backbone = self.model.backbone
        if not backbone.reads or not backbone.has_axes:
            return counted
        mask = model_kwargs.get("attention_mask")
        mask = torch.ones_like(inputs_tensor) if mask is None else mask
        media = {key: value for key, value in model_kwargs.items() if key in backbone.arguments}
        return torch.cat([counted[None], backbone.positions(inputs_tensor, mask.bool(), media)])

    def prepare_inputs_for_generation(self: Any, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Without what `generate` needs for itself (stop strings, healing) and hands on: other models drop it without a word.

        What a vision-language model reads beside text is read with the prompt, and cached with it.
        """
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        done = ["tokenizer", "assistant_tokenizer"]
        if not is_first_iteration and kwargs.get("use_cache", True):
            done += self.model.backbone.arguments
        return {key: value for key, value in inputs.items() if key not in done}

    def _validate_model_kwargs(self: Any, model_kwargs: dict[str, Any]) -> None:
        known = FORWARD_ARGUMENTS.union(DECODING) if self.config.is_encoder_decoder else FORWARD_ARGUMENTS
        self.model.pool_of({k: v for k, v in model_kwargs.items() if k not in known})

    def _maybe_prepare_encoder_kwargs_for_generation(
        self: Any, inputs_tensor: Tensor, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Encode media once before decoding, and route rows to units; decoding steps then see only `streams`."""
        known = self.model.arguments()
        rows = len(inputs_tensor)
        streams = model_kwargs.pop("streams", None)
        media = {key: model_kwargs.pop(key) for key in list(model_kwargs) if key in known}
        if streams is None:
            streams = self.model.encode(self.model.pool_of(media)[0])
        model_kwargs["streams"] = streams = self.model.route(streams, media, rows)
        if self.config.is_encoder_decoder:
            if model_kwargs.get("encoder_outputs") is not None:
                return model_kwargs
            return super()._maybe_prepare_encoder_kwargs_for_generation(inputs_tensor, model_kwargs, *args, **kwargs)
        if self.config.placeholder_ids and not inputs_tensor.is_floating_point():  # those of absent media stay hidden at every later step
            mask = model_kwargs.get("attention_mask")
            mask = torch.ones_like(inputs_tensor) if mask is None else mask
            seen = self.model.see(mask.bool(), self.model.placeholders(inputs_tensor), streams).long()
            model_kwargs |= {"attention_mask": seen, "position_ids": (seen.cumsum(1) - 1).clamp_min(0)}
        if model_kwargs.get("attention_mask") is not None:
            model_kwargs["prompt_lengths"] = model_kwargs["attention_mask"].sum(1)
        else:
            model_kwargs["prompt_lengths"] = inputs_tensor.new_full((rows,), inputs_tensor.shape[1], dtype=torch.long)
        return model_kwargs

    def _seen_once(self: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """A vision-language model's pictures, encoded before beams share them."""
        if not hasattr(self, "_expand_multimodal_outputs"):
            raise ValueError("num_beams: pictures that the backbone reads need transformers 5.19 or newer for it; leave num_beams out")
        backbone = self.model.backbone
        media = {key: value for key, value in model_kwargs.items() if key in backbone.arguments and value is not None}
        rest = {key: value for key, value in model_kwargs.items() if key not in backbone.arguments}
        return {**rest, "mm_encoder_outputs": {"image": backbone.see(media)}} if media else rest

    def _expand_inputs_for_generation(
        self: Any, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Beams share their row's picture: only the rows' index is repeated."""
        streams = model_kwargs.pop("streams", None)
        if expand_size > 1 and self.model.backbone.arguments.intersection(model_kwargs):
            model_kwargs = self._seen_once(model_kwargs)
        ids, model_kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)
        if streams is not None:
            rows = {
                name: torch.arange(tokens.rows, device=tokens.values.device).repeat_interleave(expand_size)
                for name, tokens in streams.items()
            }
            model_kwargs["streams"] = {n: t.select(rows[n]) if expand_size > 1 else t for n, t in streams.items()}
        return ids, model_kwargs
