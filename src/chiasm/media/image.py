"""The image modality: a picture file, bytes or array -> uint8 [height, width, 3] -> normalised pixel_values.

- The format is decided by the first bytes, never by the name; only that one decoder is invoked, after the header passed the limits.
- A JPEG is decoded at the smallest of its built-in scales (1, 1/2, 1/4, 1/8) that still holds the wanted size; the rest is one resize.
- Pixels stay uint8 until `collate`, which normalises the whole batch at once.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  (so that open never loads all)
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from chiasm.media import base, containers, files
from chiasm.media.pictures import Augment, PictureOptions
from chiasm.types import BadInput, Drawn

JPEG_GAP = 1.3  # a JPEG's built-in scale keeps at least this many times the wanted size
DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, struct.error, zlib.error, IndexError, KeyError, TypeError, AttributeError),
    *(EOFError, OverflowError, ZeroDivisionError, MemoryError, RuntimeError),
)
# by EXIF orientation, from 2 to 8
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")


class Image(base.Modality):
    """A picture. Decoded: uint8 [height, width, 3], sRGB, upright, transparency over white."""

    tensors = ("pixel_values",)

    class Options(PictureOptions):
        max_pixels: int = Field(25_000_000, gt=0)
        """More pixels than this are refused, by the header, before decoding."""
        max_bytes: int = Field(64 << 20, gt=0)
        """Larger files are refused."""
        min_size: int = Field(1, gt=0)
        """Pictures with a side shorter than this are refused; below 8 pixels they are noted."""
        max_aspect: float | None = Field(None, gt=1)
        """Pictures longer than this many times their width are refused; above 50 they are noted."""
        augment: Augment = Augment()
        """Random variants in training."""

    def open(self, value: Any, *, root: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
        if isinstance(value, Drawn):
            value = value.draw()
        notes: list[str] = []
        if files.is_file(value):
            data = files.read_bytes(value, root=root, limit=self.options.max_bytes)
            pixels = self._decode(data, files.describe(value), notes)
        elif isinstance(value, PIL.Image.Image):
            self._check_size(*value.size, "the picture", notes)
            pixels = _decoding(lambda: self._pixels(value, notes), value.format or "picture", "the picture")
        elif isinstance(value, np.ndarray):
            pixels = _decoding(lambda: self._from_array(value, notes), "picture", "the picture")
        else:
            raise BadInput("bad_type", f"expected a picture (a path, bytes or an array), found {files.describe(value)}")
        return self._to_size(pixels), tuple(notes)

    def augment(self, value: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        options = self.options.augment
        if options.flip and generator.random() < 0.5:
            value = np.ascontiguousarray(value[:, ::-1])
        if options.crop < 1:
            value = _random_crop(value, options.crop, generator)
        if options.shift:
            value = _random_shift(value, options.shift, generator)
        if options.jitter:
            value = _random_colours(value, options.jitter, generator)
        return value

    def collate(self, values: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """pixel_values float32 [U, 3, height, width]."""
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            sizes = ", ".join(sorted(f"{height}x{width}" for height, width, _ in shapes)[:4])
            raise BadInput("bad_shape", f"pictures of different sizes in one batch ({sizes}); give the input a size, e.g. `size: 224`")
        mean, std = torch.tensor(self.options.mean), torch.tensor(self.options.std)
        scale, offset = (1 / (255 * std)).view(3, 1, 1), (mean / std).view(3, 1, 1)
        pixel_values = torch.empty(len(values), 3, *values[0].shape[:2])  # [U, 3, H, W]
        for picture, value in zip(pixel_values, values, strict=True):  # one at a time, so that it stays in the cache
            picture.copy_(torch.from_numpy(value).permute(2, 0, 1)).mul_(scale).sub_(offset)
        return {"pixel_values": pixel_values}

    def identity(self, value: Any, *, root: str | None = None) -> str | None:
        return files.identity(value, root=root)

    def _decode(self, data: bytes, name: str, notes: list[str]) -> np.ndarray:
        try:
            format = containers.picture_format(data)
        except BadInput as error:
            raise BadInput(error.reason, f"{name} {error}") from None
        image = _decoding(lambda: PIL.Image.open(io.BytesIO(data), formats=[format]), format, name, data)
        self._check_size(*image.size, name, notes)
        fault = containers.picture_fault(data, format)
        if fault is not None:
            raise BadInput(fault[0], f"{name}: {fault[1]}; {containers.AGAIN}")
        if format == "JPEG" and self.options.size != "original" and not self.options.exact:
            side = int(JPEG_GAP * np.max([np.max(self.options.size), self.options.short_side or 0]))
            image.draft(None, (side, side))
        return _decoding(lambda: self._pixels(image, notes), format, name, data)

    def _check_size(self, width: int, height: int, name: str, notes: list[str]) -> None:
        """Limits, from the header alone."""
        options, short, long = self.options, min(width, height), max(width, height)
        if width * height > options.max_pixels:
            raise BadInput(
                "too_many_pixels", f"{name} has {width}x{height} pixels, more than max_pixels ({options.max_pixels}); make it smaller"
            )
        if short < options.min_size:
            raise BadInput(
                "too_small", f"{name} has {width}x{height} pixels, a side below min_size ({options.min_size}); give a larger one"
            )
        if options.max_aspect is not None and long > options.max_aspect * short:
            raise BadInput(
                "bad_aspect", f"{name} has {width}x{height} pixels, longer than max_aspect ({options.max_aspect:g}) allows; cut it"
            )
        if long < 8:
            notes.append("tiny")
        elif long > 50 * short:
            notes.append("sliver")

    def _pixels(self, image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
        """Decode the first frame, upright: uint8 [h, w, 3], or [h, w] where it is grey."""
        if getattr(image, "is_animated", False):
            notes.append("first of several frames")
        image.load()
        orientation = _orientation(image)
        image = _to_rgb(image, notes)
        if orientation > 1:
            notes.append("rotated")
            image = image.transpose(PIL.Image.Transpose[TURNS[orientation - 2]])
        return np.array(image)

    def _from_array(self, array: np.ndarray, notes: list[str]) -> np.ndarray:
        """An array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of numbers."""
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        if array.dtype.kind not in "uifb" or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
            raise BadInput("bad_shape", f"must be numbers [height, width, 3], found {array.dtype} {list(array.shape)}")
        self._check_size(array.shape[1], array.shape[0], "the picture", notes)
        if array.dtype != np.uint8:
            notes.append(f"scaled from {array.dtype}")
            array = _to_bytes(array * 255 if array.dtype.kind == "b" else array)
        if array.ndim == 3 and array.shape[2] == 4:
            return np.array(_to_rgb(PIL.Image.fromarray(np.ascontiguousarray(array)), notes))
        return np.array(array)  # a copy: the source's array is never changed

    def _size(self, pixels: np.ndarray) -> tuple[int, int]:
        """(height, width) wanted."""
        size = self.options.size
        if size == "original":
            return pixels.shape[0], pixels.shape[1]
        return (size, size) if isinstance(size, int) else size

    def upright(self, value: Any, *, root: str | None = None) -> np.ndarray:
        """The whole picture as it is shown, uint8 [height, width, 3], whatever `open` makes of it."""
        return Image(self.options.model_copy(update={"size": "original"})).open(value, root=root)[0]

    def area(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Which part of an upright picture [height, width] `open` decodes: (top, left, bottom, right) in its pixels, outside it where
        `open` pads."""
        if self.options.size == "original" or self.options.resize == "squash":
            return 0.0, 0.0, float(height), float(width)
        rows, columns = (self.options.size,) * 2 if isinstance(self.options.size, int) else self.options.size
        if self.options.resize == "pad":
            inner_rows, inner_columns = _fitting(height, width, rows, columns)
            down, across = height / inner_rows, width / inner_columns
            top, left = -((rows - inner_rows) // 2) * down, -((columns - inner_columns) // 2) * across
        elif self.options.exact:
            size = self._scaled(height, width, rows, columns)
            down, across = height / size[0], width / size[1]
            top, left = (size[0] - rows) // 2 * down, (size[1] - columns) // 2 * across
        else:
            first, start, tall, wide = _centre(height, width, rows, columns, self.options.short_side)
            return float(first), float(start), float(first + tall), float(start + wide)
        return top, left, top + rows * down, left + columns * across

    def _to_size(self, pixels: np.ndarray) -> np.ndarray:
        """[h, w] grey or [h, w, 3] -> [height, width, 3]."""
        height, width = self._size(pixels)
        inner = height, width
        if self.options.exact and self.options.resize != "pad":
            pixels = self._exactly(pixels, height, width)
        elif self.options.resize == "crop":
            top, left, rows, columns = _centre(pixels.shape[0], pixels.shape[1], height, width, self.options.short_side)
            pixels = pixels[top : top + rows, left : left + columns]
        elif self.options.resize == "pad":
            inner = _fitting(pixels.shape[0], pixels.shape[1], height, width)
        if pixels.shape[:2] != inner:
            pixels = _interpolated(pixels, inner, self.options.resample)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if inner != (height, width):
            canvas = np.empty((height, width, 3), np.uint8)
            canvas[:] = np.rint(255 * np.array(self.options.mean)).clip(0, 255)
            top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
            canvas[top : top + inner[0], left : left + inner[1]] = pixels
            pixels = canvas
        return pixels

    def _scaled(self, rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
        """What transformers' image processors bring a picture [rows, columns] to before they cut [height, width] out of it."""
        if self.options.resize != "crop":
            return height, width
        short, least = self.options.short_side or min(height, width), min(rows, columns)
        return (short if rows == least else int(short * rows / least), short if columns == least else int(short * columns / least))

    def _exactly(self, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        """[h, w] or [h, w, 3] -> [height, width(, 3)] in the order and with the rounding of transformers' image processors."""
        size = self._scaled(pixels.shape[0], pixels.shape[1], height, width)
        if pixels.shape[:2] != size:
            method = PIL.Image.Resampling[self.options.resample.upper()]
            pixels = np.array(PIL.Image.fromarray(pixels).resize((size[1], size[0]), method))
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return pixels[top : top + height, left : left + width]


def png_bytes(pixels: np.ndarray) -> bytes:
    """A decoded picture uint8 [height, width, 3] as a PNG file."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def _decoding(step: Callable[[], Any], format: str, name: str, data: bytes = b"") -> Any:
    """Run a step of the decoder; whatever it raises about a broken file becomes a reason code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limits here are stricter than those Pillow warns about
            return step()
    except BadInput as error:
        raise BadInput(error.reason, str(error) if name in str(error) else f"{name} {error}") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise BadInput("too_many_pixels", f"{name} has more pixels than are ever decoded; make it smaller") from None
    except DECODER_ERRORS as error:
        fault = containers.picture_fault(data, format)
        if "MAX_TEXT" in str(error):
            bomb = f"{name}: its text or colour profile unpacks to more than is reasonable; save it without them"
            raise BadInput("metadata_bomb", bomb) from None
        if fault is None:
            reason = "truncated" if "truncated" in str(error).lower() or 0 < len(data) < 64 else "corrupt"
            said = "its header cannot be read" if isinstance(error, PIL.UnidentifiedImageError) else error or type(error).__name__
            fault = reason, f"not a readable {format} ({said})"
        raise BadInput(fault[0], f"{name}: {fault[1]}; {containers.AGAIN}") from None


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF orientation 1 to 8 of a loaded picture; anything else, or EXIF data that cannot be read, counts as 1."""
    try:
        value = image.getexif().get(0x0112, 1)
    except DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    """RGB, or L (made RGB once it is small); transparency over white; deeper pixels scaled to 8 bits."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode == "F" or mode.startswith("I"):
        notes.append("scaled from 16 bit" if mode.startswith("I;16") else f"scaled from {mode}")
        return PIL.Image.fromarray(_to_bytes(np.asarray(image), deep=mode.startswith("I;16")))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("composited on white")
            canvas = PIL.Image.new("RGB", image.size, "white")
            canvas.paste(image, mask=image.getchannel("A"))
            return canvas
    if mode == "LAB":
        raise BadInput("unsupported_mode", "has LAB colours; save it as RGB")
    if mode != "RGB":
        notes.append(f"converted from {mode}")
    return image if mode == "L" and image.mode == "L" else image.convert("RGB")


def _to_bytes(values: np.ndarray, *, deep: bool = False) -> np.ndarray:
    """Scale numbers to uint8: 0-1, 0-255 or 0-65535 are taken as such, anything else from its least to its greatest value."""
    if not np.isfinite(values).all():
        raise BadInput("unsupported_mode", "has pixels that are NaN or infinite; save it in 8 bits")
    low, high = float(values.min()), float(values.max())
    if deep or values.dtype == np.uint16 or (low >= 0 and 255 < high <= 65535):
        scaled = values.astype(np.float32) / 257
    elif low >= 0 and high <= 1 and values.dtype.kind == "f":
        scaled = values.astype(np.float32) * 255
    elif low >= 0 and high <= 255:
        scaled = values
    else:
        scaled = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return np.rint(scaled).astype(np.uint8)


def _interpolated(pixels: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    """Resize with antialiasing, as Pillow does to within 1/255, in a fraction of its time."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))).permute(2, 0, 1)[None]  # [1, C, h, w]
    if method == "nearest":
        planes = functional.interpolate(planes, size, mode="nearest-exact")
    else:
        planes = functional.interpolate(planes, size, mode=method, antialias=True)
    return planes[0].permute(1, 2, 0).numpy().reshape(*size, *pixels.shape[2:])


def _centre(rows: int, columns: int, height: int, width: int, short_side: int | None = None) -> tuple[int, int, int, int]:
    """(top, left, rows, columns) of the largest centred rectangle of a picture [rows, columns] with the proportions of [height, width], or
    of what that is of a picture whose shorter side is given."""
    whole = min(rows / height, columns / width)
    scale = whole if short_side is None else min(whole, min(rows, columns) / short_side)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    return (rows - tall) // 2, (columns - wide) // 2, tall, wide


def _fitting(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """The size of a picture [rows, columns] that just fits into [height, width]."""
    scale = min(height / rows, width / columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _random_crop(pixels: np.ndarray, least: float, generator: np.random.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    area = generator.uniform(least, 1)
    stretch = generator.uniform(max(3 / 4, area), min(4 / 3, 1 / area)) ** 0.5  # such that both sides stay within the picture
    rows, columns = max(1, round(area**0.5 / stretch * height)), max(1, round(area**0.5 * stretch * width))
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    return _interpolated(pixels[top : top + rows, left : left + columns], (height, width), "bilinear")


def _random_shift(pixels: np.ndarray, most: float, generator: np.random.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    down, right = (round(generator.uniform(-most, most) * side) for side in (height, width))
    rows, columns = np.arange(height) - down, np.arange(width) - right
    return pixels[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]


def _random_colours(pixels: np.ndarray, most: float, generator: np.random.Generator) -> np.ndarray:
    """Contrast about the mean, then brightness per colour, as one table of 256 values for each colour."""
    contrast, gain = 1 + generator.uniform(-most, most), 1 + generator.uniform(-most, most)
    colours = gain * (1 + generator.uniform(-most, most, 3) / 2)
    steps = np.arange(256, dtype=np.float32)[:, None]  # [256, 1]
    middle = pixels.mean()
    table = (((steps - middle) * contrast + middle) * colours).round().clip(0, 255).astype(np.uint8)  # [256, 3]
    return table[pixels, np.arange(3)]
