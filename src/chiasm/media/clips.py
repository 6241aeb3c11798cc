"""Reads a whole sound file of our own, e.g. the built-in spoken words. User files go through the audio modality, which checks them."""

from __future__ import annotations

from os import PathLike

import numpy as np
import soundfile


def read_clips(path: str | PathLike[str]) -> tuple[np.ndarray, int]:
    """(float32 samples [frames] of the first channel, rate in Hz)."""
    samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples[:, 0]), rate
