"""EX10: a part of a decoded picture is marked at the right pixels of the original, whatever was turned, cut or padded on the way."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from chiasm.explain.units import Picture
from chiasm.media.image import Image

WAYS = {
    "original": ({"size": "original"}, (48, 64)),
    "squash": ({"size": [24, 32]}, (48, 64)),
    "crop": ({"size": 24, "resize": "crop"}, (48, 64)),
    "tall crop": ({"size": 24, "resize": "crop"}, (64, 48)),
    "crop of a short side": ({"size": 24, "resize": "crop", "short_side": 48}, (48, 64)),
    "exact crop": ({"size": 24, "resize": "crop", "exact": True, "resample": "nearest"}, (48, 64)),
    "pad": ({"size": 32, "resize": "pad"}, (48, 64)),
    "tall pad": ({"size": 32, "resize": "pad"}, (64, 48)),
}


BLOCKS = {  # settings, and which part of a picture of 48 x 64 the blocks of a 4 x 4 checker cover: (top, left, bottom, right)
    "original": ({"size": "original"}, (0, 0, 48, 64)),
    "squash": ({"size": [24, 32], "resample": "nearest"}, (0, 0, 48, 64)),
    "crop": ({"size": 24, "resize": "crop", "resample": "nearest"}, (0, 8, 48, 56)),
    "pad": ({"size": 32, "resize": "pad", "resample": "nearest"}, (0, 0, 48, 64)),
}


def picture(height: int, width: int, orientation: int = 1) -> bytes:
    """A picture whose pixel [y, x] is (4 y, 4 x, 128) as it is shown, saved turned where `orientation` says so."""
    y, x = np.mgrid[:height, :width]
    return saved(np.stack([4 * y, 4 * x, 128 + 0 * y], 2).astype(np.uint8), orientation)


def saved(pixels: np.ndarray, orientation: int) -> bytes:
    """A file that is shown as these pixels, whichever way they lie in it."""
    upright = Pillow.fromarray(pixels)
    back = {1: None, 3: "ROTATE_180", 6: "ROTATE_90", 8: "ROTATE_270", 5: "TRANSPOSE"}[orientation]
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    (upright if back is None else upright.transpose(Pillow.Transpose[back])).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("way", BLOCKS)
def test_every_block_of_a_checker_is_found_exactly(way: str, orientation: int):
    """Part (r, c) is block (r, c): all of its decoded pixels have that block's colour, and its box is the block's, to the pixel."""
    settings, (top, left, bottom, right) = BLOCKS[way]
    tall, wide = (bottom - top) // 4, (right - left) // 4
    pixels = np.full((48, 64, 3), 255, np.uint8)
    blocks = [(row, column) for row in range(4) for column in range(4)]
    for row, column in blocks:
        pixels[top + row * tall : top + (row + 1) * tall, left + column * wide : left + (column + 1) * wide] = (60 * row, 60 * column, 7)
    modality, raw = Image(Image.Options(**settings)), saved(pixels, orientation)
    value, _ = modality.open(raw)
    cut = Picture("image", 0, value, value, height=48, width=64, area=modality.area(48, 64))
    for (row, column), region in zip(blocks, cut.coarse(16), strict=True):
        up, start, down, stop = region
        assert (value[up:down, start:stop] == (60 * row, 60 * column, 7)).all()
        y, x = top + row * tall, left + column * wide
        assert cut.describe(region)["box"] == [x, y, x + wide, y + tall]


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("way", WAYS)
def test_a_part_lies_on_the_pixels_that_it_was_made_of(way: str, orientation: int):
    """The mean colour of a part tells where in the original it came from."""
    settings, (height, width) = WAYS[way]
    modality = Image(Image.Options(**settings))
    raw = picture(height, width, orientation)
    value, _ = modality.open(raw)
    assert modality.upright(raw).shape[:2] == (height, width)
    cut = Picture("image", 0, value, value, height=height, width=width, area=modality.area(height, width))
    regions = cut.coarse(16)
    assert len(regions) == 16
    for region in [*regions, *cut.split(regions[5])]:
        top, left, bottom, right = region
        left_edge, top_edge, right_edge, bottom_edge = cut.describe(region)["box"]
        seen = value[top:bottom, left:right].reshape(-1, 3).mean(0)
        expected = ((top_edge + bottom_edge - 1) / 2, (left_edge + right_edge - 1) / 2)  # centre of the box, in pixel indices
        assert seen[0] / 4 == pytest.approx(expected[0], abs=0.75)
        assert seen[1] / 4 == pytest.approx(expected[1], abs=0.75)


def test_a_part_that_is_taken_away_changes_its_pixels_and_no_other():
    value, fill = np.full((20, 30, 3), 200, np.uint8), np.zeros((20, 30, 3), np.uint8)
    cut = Picture("image", 0, value, fill, height=40, width=60, area=(0.0, 0.0, 40.0, 60.0))
    region = cut.coarse(16)[6]
    changed = cut.without([region])
    left, top, right, bottom = (round(edge / 2) for edge in cut.describe(region)["box"])
    assert (changed[top:bottom, left:right] == 0).all()
    assert (changed == 0).all(2).sum() == (bottom - top) * (right - left)
    assert (value == 200).all()
