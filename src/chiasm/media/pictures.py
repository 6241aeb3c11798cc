"""What a picture's and a video's options share: the size and the numbers that pixels become, and how they are varied in training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from chiasm.media import base


class Augment(BaseModel):
    """Random variants of a picture in training; each is off at its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    shift: float = Field(0.0, ge=0, lt=1)
    """Move by up to this part of the width and height; the edge is repeated."""
    flip: bool = False
    """Mirror left and right half of the time. Wrong where a question asks about left or right."""
    crop: float = Field(1.0, gt=0, le=1)
    """Keep a random rectangle of at least this part of the area, brought back to size."""
    jitter: float = Field(0.0, ge=0, lt=1)
    """Change brightness, contrast and each colour by up to this part."""


class PictureOptions(base.Options):
    """How a picture, or each frame of a video, becomes pixel values."""

    size: int | tuple[int, int] | Literal["original"] = 224
    """Pixels of a side, or [height, width], or original (then all pictures must be of one size)."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """How a picture of another shape is brought to size: squash it, cut its centre, or pad it."""
    resample: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """How pixels are interpolated."""
    short_side: int | None = Field(None, gt=0)
    """With resize: crop, what the shorter side is brought to before the centre is cut; the wanted size if not given."""
    exact: bool = False
    """Resize to the bit as transformers' image processors do: the whole picture, by Pillow; slower, and else within 1/255 of it."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from each colour (0 to 1)."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Each colour is divided by it, after the mean."""
