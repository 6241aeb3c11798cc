"""Draws things on a plain background, quickly: a thing is a cached grey mask, coloured through a table of 256 colours.

Masks are made once per process and size: pictograms by FreeType at 160 points, digits from scikit-learn's 8x8 handwriting.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from chiasm.data.scenes.things import COLOURS, PICTOGRAMS

SCENE, CROP = 64, 32  # side of a picture in pixels
SIZES = (20, 22, 24, 26, 28)  # longer side of a thing in pixels


class Placed(NamedTuple):
    """One thing in a picture; (x, y) is the top left corner of its size x size square."""

    thing: str
    colour: str
    size: int
    x: int
    y: int
    hand: int = -1  # row of scikit-learn's digits, where the thing is one


def draw(side: int, background: tuple[int, int, int], placed: tuple[Placed, ...]) -> np.ndarray:
    """uint8 [side, side, 3]. The squares of `placed` must not overlap."""
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = background
    for thing, colour, size, x, y, hand in placed:
        mask = pictogram(thing, size) if hand < 0 else handwriting(hand, size)  # [size, size]
        picture[y : y + size, x : x + size] = _shades(colour, background).take(mask, axis=0)
    return picture


@lru_cache(maxsize=1024)
def _shades(colour: str, background: tuple[int, int, int]) -> np.ndarray:
    """uint8 [256, 3] from the background (mask 0) to the colour (mask 255)."""
    share = np.arange(256)[:, None] / 255
    return (share * COLOURS[colour] + (1 - share) * background + 0.5).astype(np.uint8)


@cache
def pictogram(thing: str, size: int) -> np.ndarray:
    """uint8 [size, size] mask, centred, its longer side filling the square."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    font = FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    font.set_size(160, 72)
    font.set_text(PICTOGRAMS[thing])
    font.draw_glyphs_to_bitmap(antialiased=True)
    bitmap = np.asarray(font.get_image())
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    bitmap = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = bitmap.shape
    longer = max(height, width)
    top, left = (longer - height) // 2, (longer - width) // 2
    square = np.zeros((longer, longer), np.uint8)
    square[top : top + height, left : left + width] = bitmap
    return resize(square, size)


@cache
def handwriting(row: int, size: int) -> np.ndarray:
    """uint8 [size, size] mask of one handwritten digit; half an old pixel of margin keeps its strokes from being cut off at the edges."""
    pictures, _ = digits()
    return resize(np.pad(pictures[row] * (255 / 16), 1), size, trim=0.5)


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """(pictures [1797, 8, 8] in 0..16, labels [1797])."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target


def resize(image: np.ndarray, size: int, *, trim: float = 0) -> np.ndarray:
    """A square grey picture, less `trim` pixels on every side, at size x size, bicubic, smoothed where it shrinks; uint8."""
    weights = _cubic_weights(len(image), size, trim)
    return (weights @ image @ weights.T).clip(0, 255).round().astype(np.uint8)


@cache
def _cubic_weights(length: int, size: int, trim: float) -> np.ndarray:
    """[size, length]: how much each old pixel counts for each new one (Keys' kernel, a = -1/2)."""
    scale = (length - 2 * trim) / size
    centres = (np.arange(size) + 0.5) * scale + trim
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1)
    near, far = (1.5 * distance - 2.5) * distance**2 + 1, ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)
