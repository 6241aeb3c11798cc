"""What a network wants of its input: picture size, means, sampling rate, number of frames, tokenizer; read from its checkpoint."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, PreTrainedConfig

from chiasm import components
from chiasm.model import without_bars
from chiasm.recipe import EncoderSpec
from chiasm.types import RecipeError


def wanted_options(spec: EncoderSpec | None, modality: str, part: str) -> dict[str, Any]:
    """What a pretrained encoder was trained with: picture size, mean and std, frames, sampling rate, tokenizer; the longest text of any."""
    if modality == "tokens" and spec is not None and (spec.model or spec.arch):
        kind = components.find("encoder", spec.type or modality)
        return {"tokenizer": spec.model, **kind.modality_options(encoder_config(spec, kind))}
    if spec is None or spec.model is None:
        return {}
    if modality == "audio":
        return {"sampling_rate": from_checkpoint(AutoFeatureExtractor, spec.model, part).sampling_rate}
    if modality not in ("image", "video"):
        return {}
    kind = components.find("encoder", spec.type or modality)
    return picture_options(spec.model, part) | kind.modality_options(encoder_config(spec, kind))


def picture_options(where: str, part: str) -> dict[str, Any]:
    """How the checkpoint's pictures, or frames, were brought to size and normalised."""
    settings = from_checkpoint(AutoImageProcessor, where, part, use_fast=False).to_dict()
    size = settings.get("crop_size") or settings.get("size") or {}
    side = [size["height"], size["width"]] if "height" in size else size.get("shortest_edge")
    found = {
        "size": side,
        "mean": settings.get("image_mean"),
        "std": settings.get("image_std"),
        "resize": "crop" if settings.get("do_center_crop") else "squash",
    }
    if settings.get("do_normalize") is False:
        found |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    return {key: value for key, value in found.items() if value is not None}


def encoder_config(spec: EncoderSpec, kind: Any, modality: Any = None) -> PreTrainedConfig:
    """The transformers config of an encoder; a fresh one takes the input's picture size and frames, or its tokenizer's vocabulary."""
    if spec.model:
        return from_checkpoint(AutoConfig, spec.model, "encoders")
    assert spec.arch is not None
    given = {k: v for k, v in spec.options.items() if k not in kind.Options.model_fields}
    if (entries := getattr(modality, "vocab_size", None)) is not None:
        given = {"vocab_size": entries, "pad_token_id": modality.pad_id, **given}
    config: Any = AutoConfig.for_model(spec.arch, **given)
    for ours, theirs in (("size", "image_size"), ("frames", "num_frames")):
        value = getattr(getattr(modality, "options", None), ours, None)
        if hasattr(config, theirs) and theirs not in given and isinstance(value, int):
            setattr(config, theirs, value)
    return config


def from_checkpoint(kind: Any, where: str, part: str, **settings: Any) -> Any:
    """`kind.from_pretrained(where)`; why transformers cannot is told in one line."""
    try:
        with without_bars():
            return kind.from_pretrained(where, **settings)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(f"{part}.model {where}: {reason}") from None
