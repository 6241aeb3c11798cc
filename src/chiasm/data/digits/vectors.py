"""Handwritten and spoken digits as vectors, and which of them each split may use."""

from __future__ import annotations

from functools import cache

import numpy as np

from chiasm.data.scenes.draw import digits
from chiasm.data.scenes.speech import say, speakers
from chiasm.data.scenes.things import DIGITS

# Rows of scikit-learn's digits. Neighbouring rows are by one writer, so ranges keep writers apart but for those at their edges.
HANDWRITING = {"train": (*range(600), *range(1200, 1797)), "validation": tuple(range(600, 800)), "test": tuple(range(800, 1200))}

STRETCHES, MELS = 8, 16  # a clip is described by so many stretches of time and bands of frequency
PIXELS, SPECTRUM = 64, STRETCHES * MELS  # numbers of a picture and of a clip
_WINDOW, _HOP, _LOWEST = 256, 80, 50.0  # samples at 8000 Hz, samples, Hz


@cache
def pictures(split: str) -> tuple[np.ndarray, ...]:
    """For every digit float32 [how many, 64]: its 8x8 pixels in 0..1, row by row."""
    images, labels = digits()
    rows = np.array(HANDWRITING[split])
    pixels = (images[rows].reshape(len(rows), PIXELS) / 16).astype(np.float32)
    return tuple(pixels[labels[rows] == digit] for digit in range(10))


@cache
def sounds(split: str) -> tuple[np.ndarray, ...]:
    """For every digit float32 [how many, 128]: the log-mel spectrogram of each voice and take, 8 stretches of 16 bands."""
    return tuple(np.stack([spectrum(say(word, voice, take).samples, 8000) for voice, take in speakers(split)]) for word in DIGITS)


def spectrum(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mono samples -> float32 [8 * 16]: log-mel, mean 0 and variance 1, averaged over equal stretches of the clip however long it is."""
    samples = np.pad(samples, (0, max(0, _WINDOW + STRETCHES * _HOP - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.square(np.abs(np.fft.rfft(frames)))  # [frames, bins]
    log = np.log(power @ _mel_bank(rate) + 1e-6)
    log = (log - log.mean()) / log.std()
    edges = np.linspace(0, len(log), STRETCHES + 1).round().astype(int)
    return np.concatenate([log[start:end].mean(0) for start, end in zip(edges, edges[1:], strict=False)]).astype(np.float32)


@cache
def _mel_bank(rate: int) -> np.ndarray:
    """[bins, 16] triangles, equally wide on the mel scale (2595 log10(1 + f / 700))."""
    most, least = (2595 * np.log10(1 + hertz / 700) for hertz in (rate / 2, _LOWEST))
    edges = 700 * (10 ** (np.linspace(least, most, MELS + 2) / 2595) - 1)
    bins = np.arange(_WINDOW // 2 + 1)[:, None] * rate / _WINDOW
    rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling))
