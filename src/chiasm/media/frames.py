"""Frames out of a video file, by timestamp, without ever holding more than those that are wanted.

- Only the demuxer that the file's first bytes ask for is invoked, on the open file, and it can open no other file.
- The packets are read once without decoding: that says which frame is seen when, whatever the header claims. Then only what leads to a
  wanted frame is decoded, from the key frame before it.
- GIF and WebP animations are read by Pillow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np
import PIL.Image
from PIL import GifImagePlugin, WebPImagePlugin  # noqa: F401  (so that open never loads all)

from chiasm.media.containers import AGAIN
from chiasm.types import BadInput

MODERN = ("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "theora")
OLDER = ("mpeg2video", "mpeg1video", "h263", "mjpeg", "msmpeg4v2", "msmpeg4", "cinepak", "qtrle", "huffyuv", "rawvideo", "png")
CODECS = frozenset((*MODERN, *OLDER, "ffv1", "prores", "dnxhd"))  # the decoders that may be invoked
MOST_FRAMES = 2_000_000  # 22 hours at 25 a second; more are refused
WHOLE = 0.9  # a video with less than this part of the frames that its header names is refused
GAP = 0.5  # seconds by which sound and picture may differ in length without a note
LIKELY_RATE = 25.0  # frames a second, where a file tells neither times nor a rate
GIF_DELAY = 0.1  # seconds, where a frame says nothing usable (browsers do the same)
FAULTS = (av.FFmpegError, ValueError, IndexError, TypeError, OSError, EOFError, OverflowError, ZeroDivisionError, MemoryError, RuntimeError)

Choose = Callable[[np.ndarray, float], list[int]]  # (when each frame is first seen, when the last one ends) -> frames wanted, ascending
Keep = Callable[[Any], np.ndarray]  # an RGB array or a picture -> what is kept of it


@dataclass(frozen=True, slots=True)
class Index:
    """When each frame is seen; `stamps` are the file's own ticks, or None where frames are only counted."""

    times: np.ndarray  # [N] seconds from the first frame, ascending
    end: float  # seconds
    stamps: np.ndarray | None  # [N]
    keys: np.ndarray  # ticks of key frames, ascending


def read_animation(file: BinaryIO, format: str, name: str, choose: Choose, keep: Keep) -> tuple[list[np.ndarray], np.ndarray]:
    """(what is kept of each wanted frame, their times) of a GIF or WebP."""
    number = 0
    try:
        with PIL.Image.open(file, formats=[format]) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > MOST_FRAMES:
                raise BadInput("too_long", f"{name} has {frames} frames, more than {MOST_FRAMES}; cut it into shorter ones")
            delays = np.zeros(frames)
            for number in range(frames):
                image.seek(number)
                image.load()
                delay = image.info.get("duration", 0) / 1000
                delays[number] = delay if delay > 0.01 else GIF_DELAY
            times = np.concatenate([[0.0], delays.cumsum()])
            wanted, kept = choose(times[:-1], float(times[-1])), {}
            for number in sorted(set(wanted)):
                image.seek(number)
                kept[number] = keep(image.copy())
            return [kept[number] for number in wanted], times[wanted]
    except BadInput:
        raise
    except (*FAULTS, SyntaxError, KeyError, AttributeError) as error:
        raise BadInput("corrupt", f"{name}: frame {number} of the {format} cannot be read ({error}); {AGAIN}") from None


def read_frames(
    file: BinaryIO, format: str, name: str, choose: Choose, keep: Keep, check_size: Callable[[int, int], None], notes: list[str]
) -> tuple[list[np.ndarray], np.ndarray]:
    """(what is kept of each wanted frame, their times) of a file that libav's demuxer `format` reads."""
    try:
        with av.open(file, mode="r", format=format, metadata_errors="replace", io_open=open_nothing) as container:
            stream = _stream(container, name, check_size)
            index = _index(container, stream, format == "avi", name, notes)
            _compare_sound(container, index, notes)
            wanted = choose(index.times, index.end)
            return _decode(container, stream, index, wanted, name, keep), index.times[wanted]
    except BadInput:
        raise
    except FAULTS as error:
        raise BadInput("corrupt", f"{name}: not a readable video ({said(error)}); {AGAIN}") from None


def open_nothing(url: str, flags: int, options: dict[str, str]) -> Any:
    raise BadInput("demuxer_not_allowed", f"the video refers to another file, {url[:200]!r}; save it as one file")


def _stream(container: Any, name: str, check_size: Callable[[int, int], None]) -> Any:
    """The first stream of moving pictures (a sound's cover is none), with its size checked before anything is decoded."""
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        raise BadInput("no_video_stream", f"{name} has no moving picture in it; a sound goes in an audio input")
    stream, codec = streams[0], streams[0].codec_context
    if codec.name not in CODECS:
        raise BadInput("format_not_allowed", f"{name} is coded as {codec.name}; convert it to H.264")
    check_size(codec.width, codec.height)
    codec.thread_count = 1  # data workers are the parallel part
    codec.options = {"err_detect": "explode"}  # a broken frame is an error, never a guess
    return stream


def _index(container: Any, stream: Any, counted: bool, name: str, notes: list[str]) -> Index:
    """One pass over the packets. An AVI has no times of its own, so its frames are counted."""
    stamps, keys, length = [], [], 0
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_corrupt:
            continue
        length += 1
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and not packet.is_discard:
            stamps.append(stamp)
            if packet.is_keyframe:
                keys.append(stamp)
        if length > MOST_FRAMES:
            raise BadInput("too_long", f"{name} has more than {MOST_FRAMES} frames; cut it into shorter ones")
    if not length:
        raise BadInput("empty", f"{name} has no frame in it; {AGAIN}")
    ticks = np.unique(np.array(stamps, dtype=np.int64))
    rate = float(stream.average_rate or 0) or LIKELY_RATE
    if not counted and len(ticks) > max(1, length // 2):
        times = (ticks - ticks[0]) * float(stream.time_base)
        index = Index(times, times[-1] + (float(np.median(np.diff(times))) if len(times) > 1 else 1 / rate), ticks, np.unique(keys))
    else:
        if not counted and length > 1:
            notes.append(f"has no times: {rate:g} frames a second assumed")
        index = Index(np.arange(length) / rate, length / rate, None, np.zeros(0))
    _check_whole(container, stream, length, index, name, notes)
    return index


def _check_whole(container: Any, stream: Any, length: int, index: Index, name: str, notes: list[str]) -> None:
    """Compare with the number of frames that the header names, or else with its duration."""
    seconds = (container.duration or 0) / 1e6
    named, found = (stream.frames, length) if stream.frames else (seconds, index.end if seconds - index.end > 1 else seconds)
    if found < WHOLE * named:
        unit = "frames" if stream.frames else "seconds"
        raise BadInput("truncated", f"{name}: the header says {named:g} {unit}, {found:g} are there; {AGAIN}")
    if found < named:
        notes.append("breaks off")


def _compare_sound(container: Any, index: Index, notes: list[str]) -> None:
    lengths = [float(s.duration * s.time_base) for s in container.streams.audio if s.duration and s.time_base]
    if lengths and abs(lengths[0] - index.end) > GAP:
        notes.append(f"its sound is {'longer' if lengths[0] > index.end else 'shorter'} than its picture")


def _decode(container: Any, stream: Any, index: Index, wanted: Sequence[int], name: str, keep: Keep) -> list[np.ndarray]:
    """What is kept of the frames numbered `wanted` (ascending, repeats allowed)."""
    kept: dict[int, np.ndarray] = {}
    reader = _Reader(container, stream, index)
    for number in sorted(set(wanted)):
        try:
            frame = reader.frame(number)
        except FAULTS as error:
            raise BadInput("corrupt", f"{name}: frame {number} of {len(index.times)} cannot be decoded ({said(error)}); {AGAIN}") from None
        if frame is None or frame.is_corrupt:
            raise BadInput("corrupt", f"{name}: frame {number} of {len(index.times)} cannot be decoded; {AGAIN}")
        kept[number] = keep(_upright(frame))
    return [kept[number] for number in wanted]


class _Reader:
    """Decodes forward, and jumps to the last key frame before what is wanted where that saves work."""

    def __init__(self, container: Any, stream: Any, index: Index):
        self.container, self.stream, self.index = container, stream, index
        container.seek(int(index.keys[0]) if len(index.keys) else 0, stream=stream)
        self.frames: Iterator[Any] = container.decode(stream)
        self.last: Any = None  # the last frame that was decoded
        self.count = 0  # frames decoded, where they are counted

    def frame(self, number: int) -> Any:
        """Frame `number`, or the next one that is shown (some packets show nothing); None where the file ends before."""
        if self.index.stamps is None:
            return self._advanced(lambda frame: self.count > number)
        target = int(self.index.stamps[number])
        jump = self.index.keys[self.index.keys <= target]
        if len(jump) and (self.last is None or self._stamp(self.last) < jump[-1]):
            self.container.seek(int(jump[-1]), stream=self.stream)
            self.frames, self.last = self.container.decode(self.stream), None
        frame = self._advanced(lambda frame: self._stamp(frame) >= target)
        nearly_last = number >= len(self.index.stamps) - 2
        return self.last if frame is None and nearly_last else frame

    def _advanced(self, enough: Callable[[Any], bool]) -> Any:
        while self.last is None or not enough(self.last):
            frame = next(self.frames, None)
            if frame is None:
                return None
            self.last, self.count = frame, self.count + 1
        return self.last

    @staticmethod
    def _stamp(frame: Any) -> int:
        return frame.pts if frame.pts is not None else frame.dts if frame.dts is not None else -(1 << 62)


def _upright(frame: Any) -> np.ndarray:
    """uint8 [h, w, 3], turned as the file's display matrix says (multiples of 90 degrees)."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round((frame.rotation or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).strip().split("\n")[0] or type(error).__name__
