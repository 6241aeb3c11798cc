"""ChiasmConfig: everything needed to rebuild a model, saved as config.json.

`text_config` is the backbone's own transformers config. Encoders, inputs, fusion and tasks are plain dictionaries in the recipe's words, so
that a component is rebuilt by the same code that built it; `inputs` and `tasks` also carry what was learned from the data (`state`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


@strict
class ChiasmConfig(PreTrainedConfig):
    """Config of ChiasmModel and ChiasmForConditionalGeneration."""

    model_type = "chiasm"
    sub_configs = {"text_config": AutoConfig}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    inputs: dict[str, Any] = field(default_factory=dict)  # name -> {modality, options, state, place, read: by the backbone itself}
    encoders: dict[str, Any] = field(default_factory=dict)  # input -> {type, options, config, connector}
    backbone: dict[str, Any] = field(default_factory=dict)  # {kind, options}
    fusion: dict[str, Any] = field(default_factory=dict)  # as in the recipe, with its type
    tasks: dict[str, Any] = field(default_factory=dict)  # name -> {type, weight, options, state, place}
    placeholder_ids: dict[str, int] = field(default_factory=dict)  # input whose tokens enter the sequence -> id of its placeholder
    marker_ids: dict[str, int] = field(default_factory=dict)  # input whose items' places are marked in the text -> id of its marker
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.inputs, self.tasks = in_order(self.inputs), in_order(self.tasks)
        self.encoders = {name: self.encoders[name] for name in self.inputs if name in self.encoders}
        self.placeholder_ids = {name: self.placeholder_ids[name] for name in self.inputs if name in self.placeholder_ids}
        if isinstance(self.text_config, dict):
            text = dict(self.text_config)
            self.text_config = AutoConfig.for_model(text.pop("model_type"), **text)
        if self.text_config is not None:
            for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
                kwargs.setdefault(token, getattr(self.text_config.get_text_config(), token, None))
            self.is_encoder_decoder = bool(self.text_config.is_encoder_decoder)
            if self.is_encoder_decoder:
                kwargs.setdefault("decoder_start_token_id", self.text_config.decoder_start_token_id)
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The backbone's config; of an encoder-decoder also that of one half, with its number of layers, from which caches are made."""
        text = super().get_text_config(decoder=decoder, encoder=encoder)
        if text is self or decoder == encoder:
            return text if text is self else text.get_text_config()
        if not text.is_encoder_decoder:
            return text.get_text_config()  # that of a vision-language model is inside it
        half = text.get_text_config(decoder=decoder, encoder=encoder)
        if decoder and hasattr(half, "num_decoder_layers"):
            half.num_hidden_layers = half.num_decoder_layers
        return half

    @property
    def image_token_id(self) -> int | None:
        return self.placeholder_ids.get("image", getattr(self.text_config, "image_token_id", None))

    @property
    def audio_token_id(self) -> int | None:
        return self.placeholder_ids.get("audio")


def is_read(spec: Mapping[str, Any]) -> bool:
    """Whether the backbone reads this input itself, without an encoder and past the fusion."""
    return bool(spec.get("read"))


def in_order(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries by their `place` in the recipe, which JSON with sorted keys forgets; fusions depend on the order of inputs."""
    return dict(sorted(entries.items(), key=lambda entry: entry[1].get("place", 0)))
