"""The audio modality: a sound file, bytes or samples -> Sound, mono at one rate -> padded input_values.

- Rate, channels and length are checked from the header; decoding stops at `window`, however long the file is.
- Mixing the channels of a stereo recording in opposite phase gives silence: that is noticed, and the first channel is used.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import soundfile
import soxr
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from chiasm.media import base, containers, files
from chiasm.media.base import Seconds
from chiasm.media.soundtrack import read_soundtrack
from chiasm.types import BadInput, Drawn, Sound

LEAST_RATE, GREATEST_RATE = 1000, 384_000  # Hz
MOST_CHANNELS = 32
SILENT = 1e-4  # peak, of full scale 1
CANCELLED = 0.1  # a mix this much quieter than its loudest channel is opposite phase, not a mix


class Augment(BaseModel):
    """Random variants of a sound in training; each is off at its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    shift: Seconds = Field(0.0, ge=0)
    """Start up to this many seconds earlier or later; the gap is silence."""
    noise: float = Field(0.0, ge=0)
    """Add white noise of up to this part of the sound's own loudness."""
    gain: float = Field(0.0, ge=0)
    """Louder or quieter by up to this many decibels."""
    speed: float = Field(0.0, ge=0, lt=0.9)
    """Faster or slower, and higher or lower, by up to this part."""


class Audio(base.Modality):
    """A sound. Decoded: Sound, float32 [frames] in -1..1 at `sampling_rate`."""

    tensors = ("input_values", "input_values_mask")

    class Options(base.Options):
        sampling_rate: int = Field(16000, ge=LEAST_RATE, le=GREATEST_RATE)
        """Hz; other rates are resampled."""
        window: Seconds = Field(30.0, gt=0)
        """Seconds that are read, from the start (30, 30s, 2min)."""
        on_long: Literal["crop", "error"] = "crop"
        """What happens to a longer sound: it is cut (and counted) or refused."""
        channel: Literal["mix", "first", "loudest"] = "mix"
        """Which channel of several is used."""
        seconds: Seconds | None = Field(None, gt=0)
        """A fixed length: longer sounds are cut, shorter ones padded."""
        of_video: bool = False
        """The files are videos (MP4, MOV, WebM, MKV, AVI, Ogg), and their sound track is heard: with `column: video`, of the same ones."""
        augment: Augment = Augment()
        """Random variants in training."""

    def open(self, value: Any, *, root: str | None = None) -> tuple[Sound, tuple[str, ...]]:
        if isinstance(value, Drawn):
            value = value.draw()
        notes: list[str] = []
        if isinstance(value, Mapping) and "array" in value:
            value = Sound(value["array"], int(value["sampling_rate"]))
        if isinstance(value, np.ndarray):
            value = Sound(value, self.options.sampling_rate)
        if isinstance(value, Sound):
            name, rate = "the sound", value.rate
            samples = self._from_samples(value, notes)
        elif self.options.of_video and files.is_file(value):
            name, track = files.describe(value), self._track(value, root)
            samples, rate = self._from_samples(track, notes), track.rate
        elif files.is_file(value):
            name = files.describe(value)
            samples, rate = self._decode(value, root, name, notes)
        else:
            raise BadInput("bad_type", f"expected a sound (a path, bytes or samples), found {files.describe(value)}")
        return Sound(self._checked(samples, rate, name, notes), self.options.sampling_rate), tuple(notes)

    def augment(self, value: Sound, generator: np.random.Generator) -> Sound:
        options, samples = self.options.augment, value.samples
        if options.speed:
            factor = 1 + generator.uniform(-options.speed, options.speed)
            samples = soxr.resample(samples, value.rate * factor, value.rate)
        if options.shift:
            samples = _shifted(samples, round(generator.uniform(-options.shift, options.shift) * value.rate))
        if options.gain:
            samples = samples * np.float32(10 ** (generator.uniform(-options.gain, options.gain) / 20))
        if options.noise:
            loudness = generator.uniform(0, options.noise) * _loudness(samples)
            samples = samples + generator.standard_normal(len(samples), dtype=np.float32) * np.float32(loudness)
        return Sound(np.clip(samples, -1, 1), value.rate)

    def collate(self, values: Sequence[Sound]) -> dict[str, Tensor]:
        """input_values float32 [U, frames], padded with 0; input_values_mask bool [U, frames], True where there is sound."""
        fixed = None if self.options.seconds is None else round(self.options.seconds * self.options.sampling_rate)
        frames = fixed if fixed is not None else max(len(value.samples) for value in values)
        input_values, mask = torch.zeros(len(values), frames), torch.zeros(len(values), frames, dtype=torch.bool)
        for row, visible, value in zip(input_values, mask, values, strict=True):
            samples = torch.from_numpy(np.ascontiguousarray(value.samples[:frames]))
            row[: len(samples)], visible[: len(samples)] = samples, True
        return {"input_values": input_values, "input_values_mask": mask}

    def identity(self, value: Any, *, root: str | None = None) -> str | None:
        return files.identity(value, root=root)

    @property
    def _limit(self) -> float:
        """Seconds that are kept."""
        return min(self.options.window, self.options.seconds or self.options.window)

    def _track(self, value: Any, root: str | None) -> Sound:
        """The sound of a video file, of all its channels."""
        name = files.describe(value)
        with files.open_binary(value, root=root) as file:
            most = self.options.window if self.options.on_long == "error" else self._limit
            return read_soundtrack(file, containers.checked_video(file, name), name, most + 1)

    def _decode(self, value: Any, root: str | None, name: str, notes: list[str]) -> tuple[np.ndarray, int]:
        """(mono samples, rate) of a file; decoding stops at the limit."""
        with files.open_binary(value, root=root) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            try:
                format = containers.sound_format(file.read(16))
            except BadInput as error:
                raise BadInput(error.reason, f"{name} {error}") from None
            header = containers.sound_header(file, format, size)
            _check_header(header.rate, header.channels, name)
            if header.fault is not None:
                raise BadInput(header.fault[0], f"{name}: {header.fault[1]}; {containers.AGAIN}")
            if header.open_end:
                notes.append("breaks off")
            file.seek(0)
            try:
                with soundfile.SoundFile(file) as sound:
                    _check_header(sound.samplerate, sound.channels, name)
                    return self._read(sound, name, notes), sound.samplerate
            except (soundfile.SoundFileError, RuntimeError) as error:
                reason = "truncated" if size < 64 or (format == "FLAC" and file.tell() >= size) else "corrupt"
                problem = str(error).rpartition(">: ")[2]  # without the name of the file object
                raise BadInput(reason, f"{name}: not a readable {format} ({problem}); {containers.AGAIN}") from None

    def _read(self, sound: soundfile.SoundFile, name: str, notes: list[str]) -> np.ndarray:
        """Decode at most the limit, block by block, keeping one channel of each block."""
        wanted = self._kept(sound.frames, sound.samplerate, name, notes)
        blocks, energy, read = [], np.zeros(sound.channels), 0
        while read < wanted:
            block = sound.read(min(wanted - read, sound.samplerate), dtype="float32", always_2d=True)  # [frames, channels]
            if len(block) == 0:
                break
            read += len(block)
            if sound.channels > 1:
                energy += np.square(block, dtype=np.float64).sum(0)
                block = self._channels(block)
            blocks.append(block)
        if read < wanted and sound.frames < 1 << 60 and sound.format != "MP3":  # an MP3's length is an estimate
            raise BadInput("truncated", f"{name}: the header says {sound.frames} frames, {read} are there; {containers.AGAIN}")
        if not blocks:
            raise BadInput("empty", f"{name} has no sound in it (0 frames); record or save it again")
        return self._one_channel(np.concatenate(blocks), energy, read, notes)

    def _channels(self, block: np.ndarray) -> np.ndarray:
        """What must be kept of [frames, channels] until all was read: for a mix also the first channel, should the mix cancel."""
        if self.options.channel == "mix":
            return np.stack([block.mean(1), block[:, 0]], axis=1)
        return block if self.options.channel == "loudest" else block[:, :1]

    def _one_channel(self, kept: np.ndarray, energy: np.ndarray, frames: int, notes: list[str]) -> np.ndarray:
        """[frames] out of what `_channels` kept; `energy` is each channel's sum of squares."""
        if len(energy) == 1 or self.options.channel == "first":
            return kept[:, 0]
        if self.options.channel == "loudest":
            return kept[:, int(energy.argmax())]
        loudest = float(np.sqrt(energy.max() / frames))
        if loudest > SILENT and _loudness(kept[:, 0]) < CANCELLED * loudest:
            notes.append("opposite phase: first channel used")
            return kept[:, 1]
        return kept[:, 0]

    def _from_samples(self, sound: Sound, notes: list[str]) -> np.ndarray:
        """Samples given as an array [frames] or [frames, channels], of float or of whole numbers."""
        samples = np.asarray(sound.samples)
        if samples.dtype.kind == "i":
            samples = samples.astype(np.float32) / np.float32(-float(np.iinfo(samples.dtype).min))
        if samples.dtype.kind != "f" or samples.ndim not in (1, 2):
            raise BadInput("bad_shape", f"samples must be numbers [frames], found {samples.dtype} {list(samples.shape)}")
        channels = samples.shape[1] if samples.ndim == 2 else 1
        _check_header(sound.rate, channels, "the sound")
        samples = samples[: self._kept(len(samples), sound.rate, "the sound", notes)].reshape(-1, channels)
        if len(samples) == 0:
            raise BadInput("empty", "the sound has 0 frames; leave it out")
        energy = np.square(samples, dtype=np.float64).sum(0)
        kept = self._channels(samples) if channels > 1 else samples
        return self._one_channel(kept, energy, len(samples), notes).astype(np.float32)

    def _kept(self, frames: int, rate: int, name: str, notes: list[str]) -> int:
        """How many frames are read of a sound of `frames`."""
        most = max(1, round(self._limit * rate))
        if frames <= most:
            return frames
        if self.options.on_long == "error" and frames > round(self.options.window * rate):
            raise BadInput("too_long", f"{name} is longer than {self.options.window:g} s; set `window`, or `on_long: crop`")
        notes.append("cut to length")
        return most

    def _checked(self, samples: np.ndarray, rate: int, name: str, notes: list[str]) -> np.ndarray:
        """Finite, within -1..1, at the wanted rate."""
        if not np.isfinite(samples).all():
            raise BadInput("nonfinite", f"{name} has samples that are NaN or infinite; save it again as 16-bit")
        peak = float(np.abs(samples).max())
        if peak > 1:
            notes.append("clipped")
        if peak <= SILENT:
            notes.append("silent")
        if rate != self.options.sampling_rate:
            notes.append("resampled")
            samples = soxr.resample(samples, rate, self.options.sampling_rate)
            if len(samples) == 0:
                raise BadInput("empty", f"{name} is too short to be resampled from {rate} Hz; give a longer one")
        return np.clip(samples, -1, 1)


def seconds_of(data: bytes) -> float | None:
    """How long a sound file says it is, nothing decoded; None where it does not say, or cannot be read (opening it will say why)."""
    try:
        containers.sound_format(data[:16])
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            _check_header(sound.samplerate, sound.channels, "the sound")
            return sound.frames / sound.samplerate if 0 < sound.frames < 1 << 60 else None
    except (BadInput, soundfile.SoundFileError, RuntimeError):
        return None


def wav_bytes(sound: Sound) -> bytes:
    """A decoded sound as a 16-bit WAV file."""
    file = io.BytesIO()
    soundfile.write(file, sound.samples, sound.rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _check_header(rate: int | None, channels: int | None, name: str) -> None:
    if rate is not None and not LEAST_RATE <= rate <= GREATEST_RATE:
        raise BadInput("bad_rate", f"{name} has a sampling rate of {rate} Hz; convert it to one from {LEAST_RATE} to {GREATEST_RATE}")
    if channels is not None and not 1 <= channels <= MOST_CHANNELS:
        raise BadInput("bad_channels", f"{name} has {channels} channels; mix them down to 1, or at most {MOST_CHANNELS}")


def _loudness(samples: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


def _shifted(samples: np.ndarray, frames: int) -> np.ndarray:
    """Later by `frames` (earlier if negative), of the same length."""
    moved = np.zeros_like(samples)
    if frames >= 0:
        moved[frames:] = samples[: len(samples) - frames]
    else:
        moved[:frames] = samples[-frames:]
    return moved
