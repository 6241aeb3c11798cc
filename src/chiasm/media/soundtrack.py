"""The sound track of a video file, from its start and no longer than wanted, by the one demuxer that the file's first bytes ask for."""

from __future__ import annotations

from typing import BinaryIO

import av
import numpy as np

from chiasm.media.containers import AGAIN
from chiasm.media.frames import FAULTS, open_nothing, said
from chiasm.types import BadInput, Sound

CODECS = frozenset(("aac", "mp3", "mp3float", "mp2", "mp2float", "opus", "libopus", "vorbis", "libvorbis", "flac", "alac", "ac3", "eac3"))
PLAIN = ("pcm_", "adpcm_")  # how the names of uncompressed ones begin


def read_soundtrack(file: BinaryIO, format: str, name: str, seconds: float) -> Sound:
    """The first sound track: samples float32 [frames, channels], at least `seconds` of them where there are so many."""
    if format in ("GIF", "WEBP"):
        raise BadInput("no_audio_stream", f"{name} is a {format}, which has no sound; leave this input out for such rows")
    try:
        with av.open(file, mode="r", format=format, metadata_errors="replace", io_open=open_nothing) as container:
            if not container.streams.audio:
                raise BadInput("no_audio_stream", f"{name} has no sound track; leave this input out for such rows")
            stream = container.streams.audio[0]
            codec = stream.codec_context
            if codec.name not in CODECS and not codec.name.startswith(PLAIN):
                raise BadInput("format_not_allowed", f"the sound of {name} is coded as {codec.name}; convert it to AAC")
            codec.thread_count = 1
            codec.options = {"err_detect": "explode"}
            resampler, blocks, wanted = av.AudioResampler(format="fltp"), [], 0
            for frame in container.decode(stream):
                blocks += [piece.to_ndarray() for piece in resampler.resample(frame)]
                wanted = wanted or int(seconds * frame.sample_rate) + 1
                if sum(block.shape[1] for block in blocks) > wanted:
                    break
            if not blocks:
                raise BadInput("empty", f"{name} has no sound in its sound track (0 frames); leave this input out for such rows")
            return Sound(np.concatenate(blocks, axis=1).T, int(codec.sample_rate))
    except BadInput:
        raise
    except FAULTS as error:
        raise BadInput("corrupt", f"{name}: its sound track cannot be read ({said(error)}); {AGAIN}") from None
