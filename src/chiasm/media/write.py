"""Writes pictures and sounds as files that any program opens: PNG and FLAC, both without loss."""

from __future__ import annotations

from os import PathLike

import numpy as np
import soundfile
from PIL import Image

from chiasm.types import Sound


def write_picture(path: str | PathLike[str], pixels: np.ndarray) -> None:
    """uint8 [height, width, 3] -> a PNG file."""
    Image.fromarray(pixels).save(path, format="PNG")


def write_sound(path: str | PathLike[str], sound: Sound) -> None:
    """Mono samples in -1..1 -> a FLAC file of 16 bits."""
    soundfile.write(str(path), sound.samples, sound.rate, format="FLAC", subtype="PCM_16")
