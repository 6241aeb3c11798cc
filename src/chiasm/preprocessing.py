"""What a pretrained image encoder's own preprocessing is, as options of an image input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
WHOLE = 384  # from here on a ConvNeXt squashes the picture and cuts nothing


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
