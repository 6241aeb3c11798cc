"""What a file really is, by its first bytes, and whether it is whole: read from the container, before any decoder sees it.

Decoders are lenient: libjpeg fills half a picture with grey, libsndfile shortens a clip to what is there. Here that is a reason code.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from chiasm.types import BadInput

PICTURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
REFUSED = {  # known, and not opened: their parsers run programs, follow references or are rarely hardened
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "SVG or other XML",
    b"SIMPLE  =": "FITS",
    b"8BPS": "PSD",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"FORM": "AIFF",
    b".snd": "AU",
    b"\x1aE\xdf\xa3": "Matroska",
    b"\x30\x26\xb2\x75": "WMA",
    b"#!AMR": "AMR",
}

PLAYLISTS = {  # texts that send a demuxer to other files or to the network
    b"#extm3u": "an HLS playlist",
    b"ffconcat": "an ffconcat script",
    b"v=0": "an SDP session",
    b"<mpd": "a DASH manifest",
    b"<?xml": "a DASH manifest or other XML",
    b"[playlist]": "a playlist",
    b"[reference]": "a playlist",
    b"rtsp:": "an address",
    b"http": "an address",
    b"data:": "a data address",
    b"file": "a file list or address",
}
VIDEOS = {  # what a file may start with -> libav's name of the one demuxer that reads it
    b"\x1aE\xdf\xa3": "matroska",
    b"OggS": "ogg",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
AGAIN = "copy or save the file again"  # what helps a file that is cut off or damaged
MOVIE_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def picture_format(data: bytes) -> str:
    """JPEG, PNG, GIF, BMP, TIFF or WEBP; BadInput unknown_format or format_not_allowed for everything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    found = _starts_with(data, PICTURES)
    if found is None:
        raise _other_format(data, "a JPEG, PNG, WebP, GIF, BMP or TIFF picture")
    return found


def sound_format(head: bytes) -> str:
    """WAV, FLAC, OGG or MP3; BadInput unknown_format or format_not_allowed for everything else."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] in (b"fLaC", b"OggS"):
        return "FLAC" if head[:1] == b"f" else "OGG"
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6)):  # or an MPEG audio frame
        return "MP3"
    raise _other_format(head, "a WAV, FLAC, OGG or MP3 sound")


def video_format(head: bytes) -> str:
    """mov, matroska, avi or ogg (libav's names), GIF or WEBP; BadInput demuxer_not_allowed for what would lead elsewhere."""
    if head[4:8] in MOVIE_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return "avi" if head[8:12] == b"AVI " else "WEBP"
    if (known := _starts_with(head, VIDEOS)) is not None:
        return known
    if (playlist := _starts_with(_text(head), PLAYLISTS)) is not None:
        raise BadInput("demuxer_not_allowed", f"is {playlist}, which leads to other files; give the video file itself")
    if (still := _starts_with(head, PICTURES)) is not None:
        raise BadInput("format_not_allowed", f"is a {still} picture; for a video given as pictures write `listed: frames` in its input")
    raise _other_format(head, "an MP4, MOV, WebM, MKV, AVI, Ogg, GIF or WebP video")


def checked_video(file: BinaryIO, name: str) -> str:
    """What `video_format` says of an open file, which is left at its start; BadInput with its name, also where its index is missing."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        format = video_format(file.read(32))
    except BadInput as error:
        raise BadInput(error.reason, f"{name} {error}") from None
    if format == "mov" and (fault := movie_fault(file, size)) is not None:
        raise BadInput(fault[0], f"{name}: {fault[1]}; {AGAIN}")
    file.seek(0)
    return format


def movie_fault(file: BinaryIO, size: int) -> tuple[str, str] | None:
    """(reason, what is wrong) of an MP4 or MOV without its index, by its outermost boxes alone."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"moov" or (kind == b"moof" and position):
            return None if position + length <= size else ("truncated", "the MP4 ends inside its index")
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:  # 0: up to the end of the file
            break
        position += length
    return "truncated", "the MP4's index (its moov box) is missing, so the end of the file may be"


def picture_fault(data: bytes, format: str) -> tuple[str, str] | None:
    """(reason, what is wrong) of a picture whose end is missing or whose checksum does not fit; None where nothing is seen."""
    if format == "PNG":
        return _png_fault(data)
    if format == "JPEG" and not _jpeg_ends(data):
        return "truncated", "the end of the JPEG is missing"
    if format == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return "truncated", f"the WebP says {8 + int.from_bytes(data[4:8], 'little')} bytes, the file has {len(data)}"
    return None


def _png_fault(data: bytes) -> tuple[str, str] | None:
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return "corrupt", f"checksum of the PNG's {kind.decode('latin-1')!r} chunk at byte {position} does not fit"
        if kind == b"IEND":
            return None
        position = end
    return "truncated", "the end of the PNG is missing"


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end marker follows the first scan (a thumbnail's own end marker, further ahead, does not count)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan: from here on 0xFF in the data is followed by 0
            break
        if marker == 0xFF:  # fill
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no length
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.rfind(b"\xff\xd9", position) >= 0


@dataclass(frozen=True, slots=True)
class SoundHeader:
    """What the container says before decoding; None where it does not say."""

    rate: int | None = None  # Hz
    channels: int | None = None
    fault: tuple[str, str] | None = None  # (reason, what is wrong)
    open_end: bool = False  # the stream does not say that it is over, e.g. a recording that was broken off


def sound_header(file: BinaryIO, format: str, size: int) -> SoundHeader:
    """What a sound file of `size` bytes says of itself; `file` is left anywhere."""
    return {"WAV": _wav_header, "FLAC": _flac_header, "OGG": _ogg_header, "MP3": _mp3_header}[format](file, size)


def _wav_header(file: BinaryIO, size: int) -> SoundHeader:
    """Walk the RIFF chunks: rate and channels from `fmt `, and whether `data` is all there."""
    rate = channels = None
    align, position = 1, 12
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        body = file.read(16) if kind == b"fmt " else b""
        if len(body) == 16:
            coding, channels, rate, _, block, _ = struct.unpack("<HHIIHH", body)
            align = block if coding in (0x0001, 0x0003, 0xFFFE) else 1  # PCM, float, either; others pack frames into blocks
        if kind == b"data":
            return SoundHeader(rate, channels, _wav_data_fault(length, size - position - 8, align))
        position += 8 + length + length % 2
    return SoundHeader(rate, channels, ("truncated", "the WAV ends before its data"))


def _wav_data_fault(length: int, there: int, align: int) -> tuple[str, str] | None:
    if length == 0xFFFFFFFF:  # written to a pipe, or the 64-bit form: the true length stands elsewhere
        return None
    if length > there:
        return "truncated", f"the WAV header says {length} bytes of sound, the file has {there}"
    if align and length % align:
        return "corrupt", f"the WAV has {length} bytes of sound, not a whole number of {align}-byte frames"
    return None


def _flac_header(file: BinaryIO, size: int) -> SoundHeader:
    file.seek(8)
    info = file.read(34)
    if len(info) < 34:
        return SoundHeader(fault=("truncated", "the FLAC ends inside its header"))
    packed = int.from_bytes(info[10:14], "big")
    return SoundHeader(rate=packed >> 12, channels=(packed >> 9 & 7) + 1)


def _ogg_header(file: BinaryIO, size: int) -> SoundHeader:
    """Look at the last page: it must be whole, and says whether the stream ends there."""
    file.seek(max(0, size - 66_000))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail.rfind(b"OggS")
    segments = tail[page + 27 : page + 27 + tail[page + 26]] if 0 <= page < len(tail) - 26 else b""
    if not segments or page + 27 + len(segments) + sum(segments) > len(tail):
        return SoundHeader(fault=("truncated", "the end of the OGG is missing"))
    return SoundHeader(open_end=not tail[page + 5] & 4)


def _mp3_header(file: BinaryIO, size: int) -> SoundHeader:
    """Look for the length that most encoders write into the first frame."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(start)
    frame = file.read(200)
    tag = max(frame.find(b"Xing", 0, 60), frame.find(b"Info", 0, 60))
    if tag < 0 or len(frame) < tag + 16 or frame[tag + 7] & 3 != 3:  # number of frames and of bytes
        return SoundHeader()
    length = int.from_bytes(frame[tag + 12 : tag + 16], "big")
    if length > size - start:
        return SoundHeader(fault=("truncated", f"the MP3 says {length} bytes of sound, the file has {size - start}"))
    return SoundHeader()


def _other_format(data: bytes, wanted: str) -> BadInput:
    found = _starts_with(_text(data), {k.lower(): v for k, v in REFUSED.items()})
    if found is None and data[4:8] == b"ftyp":
        found = "MP4, HEIC or AVIF"
    if found is not None:
        return BadInput("format_not_allowed", f"is {found}; convert it to {wanted}")
    return BadInput("unknown_format", f"is not {wanted} (starts with {data[:12]!r}); convert it to one")


def _text(data: bytes) -> bytes:
    """How a text begins, whatever its case, its mark of byte order and the blanks ahead of it."""
    return data.lstrip(b"\xef\xbb\xbf \r\n\t")[:16].lower()


def _starts_with(data: bytes, known: dict[bytes, str]) -> str | None:
    return next((name for magic, name in known.items() if data.startswith(magic)), None)
