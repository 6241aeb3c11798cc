"""What a network wants of its input: picture size, means, sampling rate, number of frames, tokenizer; read from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, PreTrainedConfig

from chiasm import components
from chiasm.framing import full_precision
from chiasm.loading import from_checkpoint
from chiasm.recipe import EncoderSpec

RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
WHOLE = 384  # from here on a ConvNeXt squashes the picture and cuts nothing


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
    settings = from_checkpoint(AutoImageProcessor, spec.model, part, use_fast=False).to_dict()
    return picture_options(settings) | kind.modality_options(encoder_config(spec, kind))


def picture_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An image processor's settings (preprocessor_config.json) -> size, resize, resample, mean, std; what it does not say is left out."""
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    short, cuts = size.get("shortest_edge"), bool(settings.get("do_center_crop"))
    wanted = crop if cuts else size
    side = [wanted["height"], wanted["width"]] if "height" in wanted else short
    found: dict[str, Any] = {"size": side, "resize": "crop" if cuts else "squash", "resample": RESAMPLING.get(settings.get("resample", -1))}
    if settings.get("crop_pct") and short is not None and short < WHOLE:
        found |= {"resize": "crop", "short_side": int(short / settings["crop_pct"])}
    elif cuts and short is not None and side != [short, short]:
        found["short_side"] = short
    found |= {"mean": settings.get("image_mean"), "std": settings.get("image_std")}
    if settings.get("do_normalize") is False:
        found |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    return {key: value for key, value in found.items() if value is not None}


def encoder_config(spec: EncoderSpec, kind: Any, modality: Any = None) -> PreTrainedConfig:
    """The transformers config of an encoder; a fresh one takes the input's picture size and frames, or its tokenizer's vocabulary."""
    if spec.model:
        return full_precision(from_checkpoint(AutoConfig, spec.model, "encoders"))
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
