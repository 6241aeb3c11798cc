"""The video modality: a video file, bytes, an array or pictures -> the frames seen at a few moments -> normalised pixel values and times.

- Moments lie evenly over the clip by timestamp, at the middle of equal stretches; the frame seen at each is taken.
- Every frame goes through the image modality, so that sizes, limits and normalisation are the same as a picture's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from chiasm.components import find
from chiasm.media import base, containers, files
from chiasm.media.base import Seconds
from chiasm.media.frames import read_animation, read_frames
from chiasm.media.pictures import Augment as PictureAugment
from chiasm.media.pictures import PictureOptions
from chiasm.types import BadInput, Drawn, Film

TICK = 1e-6  # seconds: a frame that begins at the moment asked for is seen then, however its time was rounded
PROTOCOLS = "data|concat|concatf|subfile|crypto|cache|async|pipe|fd|rtp|rtsp|tcp|udp|lavfi"  # those of libav without //
ADDRESS = re.compile(rf"[a-z][a-z0-9+.-]*://|({PROTOCOLS}):", re.IGNORECASE)


class Augment(PictureAugment):
    """Random variants of a clip in training, alike for all its frames; each is off at its default."""

    start: float = Field(0.0, ge=0, le=1)
    """Take all frames earlier or later by up to half this part of the step between them."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The frames of one clip, each a picture."""

    pictures: tuple[Any, ...]


class Video(base.Modality):
    """A moving picture. Decoded: Film, frames uint8 [T, height, width, 3] and their times in seconds."""

    tensors = ("pixel_values_videos", "video_mask", "video_times")

    class Options(PictureOptions):
        fps: float = Field(1.0, gt=0)
        """Frames taken of each second, evenly spread."""
        frames: int | None = Field(None, gt=0)
        """A fixed number of frames, evenly spread over the clip, whatever its length; instead of fps."""
        max_frames: int = Field(64, gt=0)
        """Most frames that fps may take of one clip; more are thinned out evenly (and counted)."""
        window: Seconds | None = Field(None, gt=0)
        """Seconds that are read, from the start (30, 30s, 2min); all of them where it is not given."""
        listed: Literal["clips", "frames"] = "clips"
        """What a list of files in the column is: several clips, or the pictures that are the frames of one."""
        frame_rate: float = Field(1.0, gt=0)
        """Frames a second of clips that come as pictures or as arrays, which do not say it."""
        max_pixels: int = Field(25_000_000, gt=0)
        """More pixels in a frame than this are refused, by the header, before decoding."""
        max_bytes: int = Field(1 << 30, gt=0)
        """Larger files are refused."""
        augment: Augment = Augment()
        """Random variants in training."""

    def __init__(self, options: Any = None):
        super().__init__(options)
        image, own = find("modality", "image"), self.options
        alike = {name: getattr(own, name) for name in ("size", "resize", "resample", "mean", "std", "max_pixels")}
        self.picture = image(image.Options(**alike, augment={name: getattr(own.augment, name) for name in PictureAugment.model_fields}))

    def raw(self, parts: Mapping[str, Any], name: str) -> Any:
        value = super().raw(parts, name)
        return Listed(tuple(value)) if isinstance(value, list | tuple) and self.options.listed == "frames" and value else value

    def open(self, value: Any, *, root: str | None = None) -> tuple[Film, tuple[str, ...]]:
        return self._open(value, root, 0.0)

    def open_varied(self, value: Any, generator: np.random.Generator, *, root: str | None = None) -> tuple[Film, tuple[str, ...]]:
        start = self.options.augment.start
        film, notes = self._open(value, root, generator.uniform(-start / 2, start / 2) if start else 0.0)
        return self.augment(film, generator), notes

    def augment(self, value: Film, generator: np.random.Generator) -> Film:
        """The same random variant of every frame."""
        frames = [self.picture.augment(frame, copy.deepcopy(generator)) for frame in value.frames]
        return Film(np.stack(frames), value.times)

    def collate(self, values: Sequence[Film]) -> dict[str, Tensor]:
        """pixel_values_videos float32 [U, T, 3, height, width] and video_times float32 [U, T], both padded with 0; video_mask bool [U, T],
        True where there is a frame."""
        lengths = [len(value.frames) for value in values]
        pictures = self.picture.collate([frame for value in values for frame in value.frames])["pixel_values"]  # [frames of all, 3, H, W]
        mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
        pixels, times = torch.zeros(*mask.shape, *pictures.shape[1:]), torch.zeros(mask.shape)
        pixels[mask] = pictures
        times[mask] = torch.from_numpy(np.concatenate([value.times for value in values])).float()
        return {"pixel_values_videos": pixels, "video_mask": mask, "video_times": times}

    def identity(self, value: Any, *, root: str | None = None) -> str | None:
        pictures = value.pictures if isinstance(value, Listed) else self._folder(value, root)
        if pictures is None:
            return files.identity(value, root=root)
        marks = [files.identity(picture, root=root) for picture in pictures]
        return None if None in marks else f"frames:{files.hashed(chr(10).join(map(str, marks)).encode())}"

    def _open(self, value: Any, root: str | None, offset: float) -> tuple[Film, tuple[str, ...]]:
        """`offset`: by how many steps between frames all of them are taken later."""
        sampler = _Sampler(self.options, offset)
        if isinstance(value, Drawn):
            value = value.draw()
        if isinstance(value, np.ndarray):
            value = Film(value, np.arange(len(value) if value.ndim else 0) / self.options.frame_rate)
        given: Any = value.pictures if isinstance(value, Listed) else value
        pictures = given if isinstance(given, list | tuple) else self._folder(given, root)
        if pictures is not None:
            frames, times = self._from_pictures(pictures, files.describe(value), root, sampler)
        elif isinstance(value, Film):
            frames, times = self._from_film(value, sampler)
        elif files.is_file(value):
            frames, times = self._from_file(value, root, sampler)
        else:
            raise BadInput("bad_type", f"expected a video (a path, bytes or frames), found {files.describe(value)}")
        return Film(np.stack(frames), np.asarray(times, np.float32)), tuple(dict.fromkeys(sampler.notes))

    def _from_file(self, value: Any, root: str | None, sampler: _Sampler) -> tuple[list[np.ndarray], np.ndarray]:
        name = files.describe(value)
        if isinstance(value, str) and ADDRESS.match(value):
            raise BadInput("demuxer_not_allowed", f"{name} is an address, not a file; download the video first")
        with files.open_binary(value, root=root, limit=self.options.max_bytes) as file:
            format = containers.checked_video(file, name)

            def keep(frame: Any) -> np.ndarray:
                return self._picture(frame, name, sampler)

            if format in ("GIF", "WEBP"):
                return read_animation(file, format, name, sampler, keep)
            return read_frames(file, format, name, sampler, keep, lambda w, h: self._check_size(w, h, name), sampler.notes)

    def _from_film(self, film: Film, sampler: _Sampler) -> tuple[list[np.ndarray], np.ndarray]:
        frames, times = np.asarray(film.frames), np.asarray(film.times, dtype=np.float64)
        if frames.ndim != 4 or frames.shape[3] not in (1, 3, 4) or len(times) != len(frames):
            raise BadInput("bad_shape", f"must be numbers [frames, height, width, 3], found {frames.dtype} {list(frames.shape)}")
        if not len(frames):
            raise BadInput("empty", "the video has 0 frames; leave it out")
        wanted = sampler(times, _end(times, self.options.frame_rate))
        return [self._picture(frames[number], "the video", sampler) for number in wanted], times[wanted]

    def _from_pictures(
        self, pictures: Sequence[Any], name: str, root: str | None, sampler: _Sampler
    ) -> tuple[list[np.ndarray], np.ndarray]:
        if not pictures:
            raise BadInput("empty", f"{name} holds no pictures; name a folder that does")
        times = np.arange(len(pictures)) / self.options.frame_rate
        wanted = sampler(times, _end(times, self.options.frame_rate))
        opened = {number: self._picture(pictures[number], f"frame {number} of {name}", sampler, root) for number in set(wanted)}
        return [opened[number] for number in wanted], times[wanted]

    def _picture(self, frame: Any, name: str, sampler: _Sampler, root: str | None = None) -> np.ndarray:
        """One frame through the image modality: uint8 [height, width, 3]."""
        try:
            pixels, notes = self.picture.open(frame, root=root)
        except BadInput as error:
            raise BadInput(error.reason, f"{name}: {error}") from None
        sampler.notes += notes
        return pixels

    def _check_size(self, width: int, height: int, name: str) -> None:
        if width < 1 or height < 1:
            raise BadInput("corrupt", f"{name} says that its frames are {width}x{height} pixels; {containers.AGAIN}")
        if width * height > self.options.max_pixels:
            raise BadInput(
                "too_many_pixels", f"{name} has {width}x{height} pixels, more than max_pixels ({self.options.max_pixels}); make it smaller"
            )

    def _folder(self, value: Any, root: str | None) -> list[str] | None:
        """The pictures of a folder that is one clip; None where the value names no folder."""
        if isinstance(value, str) and ADDRESS.match(value):
            return None
        return files.pictures_in(value, root=root)


class _Sampler:
    """Chooses frames by time, and gathers the notes of one clip."""

    def __init__(self, options: Any, offset: float):
        self.options, self.offset = options, offset
        self.notes: list[str] = []

    def __call__(self, times: np.ndarray, end: float) -> list[int]:
        """times [N], seconds at which frames are first seen, and the end of the last -> the numbers of those wanted, in order."""
        options, times = self.options, times - times[0]
        if options.window is not None and options.window < end - 1e-9:
            self.notes.append("cut to length")
            end = options.window
        seen = max(1, int((times < end).sum()))
        count = options.frames or max(1, min(round(end * options.fps), seen))
        if options.frames is None and count > options.max_frames:
            self.notes.append("fewer frames than fps asks for")
            count = options.max_frames
        moments = (np.arange(count) + 0.5 + self.offset) * (end / count)
        wanted = (np.searchsorted(times, moments + TICK, side="right") - 1).clip(0, seen - 1).tolist()
        if seen == 1 < count:
            self.notes.append("one frame, repeated")
        elif len(set(wanted)) < count:
            self.notes.append("some frames repeated")
        return wanted


def _end(times: np.ndarray, rate: float) -> float:
    """When the last frame ends: it stays as long as the one before it."""
    return float(times[-1] - times[0] + (times[-1] - times[-2] if len(times) > 1 else 1 / rate))
