"""Finds which inputs meet the backbone through the fusion: all but prompt text and what a vision-language model reads itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_text_streams(inputs: Mapping[str, Any], encoders: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(inputs in their long form, encoders): a text with an encoder has the modality `tokens`.

    The entry's key is the input's name, or `text` for all texts without one of their own (unless an input is called so).
    """
    long = {name: {"modality": name, **spec} if isinstance(spec, Mapping) else spec for name, spec in inputs.items()}
    texts = {name: spec if isinstance(spec, dict) else {"modality": spec} for name, spec in long.items()}
    texts = {name: spec for name, spec in texts.items() if spec["modality"] in ("text", "tokens")}
    own = dict(encoders)
    if texts and "text" not in inputs and "text" in own:
        shared = own.pop("text")
        own = {**dict.fromkeys(texts, shared), **own}
    return {**long, **{name: {**spec, "modality": "tokens"} for name, spec in texts.items() if name in own}}, own


def fuses_nothing(inputs: Mapping[str, Any], encoders: Mapping[str, Any]) -> bool:
    """Whether all inputs, in their long form, are text or pictures without an encoder, which only the backbone itself can read."""
    modalities = {name: spec.get("modality") if isinstance(spec, Mapping) else spec for name, spec in inputs.items()}
    pictures = [name for name, modality in modalities.items() if modality == "image"]
    return bool(pictures) and set(modalities.values()) <= {"text", "image"} and not {*pictures, "image"} & set(encoders)
