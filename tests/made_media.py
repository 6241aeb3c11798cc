"""Pictures, sounds and films as files in memory, whole or odd; what several folders of tests break, each in its own way."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import soundfile


def photograph(height=40, width=60):
    """Smooth uint8 [height, width, 3], different in every corner."""
    down, right = np.mgrid[0:height, 0:width]
    return np.stack([down * 255 // height, right * 255 // width, (down + right) * 255 // (height + width)], axis=-1).astype(np.uint8)


def picture_file(format="PNG", pixels=None, mode="RGB", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(photograph() if pixels is None else pixels).convert(mode).save(file, format, **options)
    return file.getvalue()


def saved(picture, format="PNG", **options):
    """A Pillow picture, or an array in a mode of its own, as a file."""
    file = io.BytesIO()
    (PIL.Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, format, **options)
    return file.getvalue()


def with_orientation(upright, orientation):
    """(pixels as they are stored, EXIF data) of a picture that is `upright` once it is turned as that says."""
    stored = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }.get(orientation, upright)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return np.ascontiguousarray(stored), exif


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(width, height, *extra, depth=8, colour=2, pixels=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


# ---- sounds


def tone(seconds=1.0, rate=16000, frequency=1000.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def sound_file(samples=None, rate=16000, format="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, tone(rate=rate) if samples is None else samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def wav_file(body=bytes(3200), *, rate=16000, channels=1, bits=16, says=None):
    align = max(1, channels * bits // 8)
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * align % 2**32, align % 65536, bits)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(body))
        + b"WAVE"
        + head
        + b"data"
        + struct.pack("<I", len(body) if says is None else says)
        + body
    )


# ---- films


def shade(number, count=20):
    """A grey whose brightness says which frame it is, with a red corner at the top left."""
    picture = np.full((32, 48, 3), 20 + round(200 * number / max(1, count - 1)), np.uint8)
    picture[:12, :16] = (255, 0, 0)
    return picture


def film_file(count=20, *, codec="libx264", format="mp4", rate=10, ticks=None, sound=0.0, size=None, **settings):
    """A clip of `count` grey frames; ticks: when each is seen, in milliseconds."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size or (48, 32)
        stream.pix_fmt, stream.options = "yuv420p", settings
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        tone = container.add_stream("aac" if format == "mp4" else "libopus", rate=48000, layout="mono") if sound else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(shade(number, count), format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            if ticks is not None:
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, round(48000 * sound)), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 48000
            container.mux(tone.encode(silence))
            container.mux(tone.encode())
    return file.getvalue()


def packet_places(data):
    """Where in a film file the data of each frame begin."""
    with av.open(io.BytesIO(data)) as container:
        return [packet.pos for packet in container.demux(video=0) if packet.size]


def sound_only():
    """An MP4 with a sound track and no picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return file.getvalue()


def turned(data, turns):
    """An MP4 whose track's header, written by hand as phones do, turns it clockwise by so many quarters."""
    matrix = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turns]
    data = bytearray(data)
    place = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", data, place) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, place, matrix[0] << 16, matrix[1] << 16, 0, matrix[2] << 16, matrix[3] << 16, 0, 0, 0, 1 << 30)
    return bytes(data)


def without_a_rate(data):
    """An AVI that says it has no frames a second."""
    data = bytearray(data)
    place = data.index(b"strh") + 8 + 20
    assert struct.unpack_from("<II", data, place) == (1, 10)
    struct.pack_into("<II", data, place, 1, 0)
    return bytes(data)


def animation(count=8, format="GIF", delay=200):
    pictures = [PIL.Image.fromarray(shade(number, count)) for number in range(count)]
    file = io.BytesIO()
    pictures[0].save(file, format, save_all=True, append_images=pictures[1:], duration=delay, loop=0, lossless=True)
    return file.getvalue()


def leading_elsewhere(address, victim):
    """Files and values that would send a demuxer to `address` or to the file `victim`."""
    return [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n".encode(),
        f"\ufeff\n#extm3u\n#EXTINF:1,\nfile://{victim}\n".encode(),
        f"ffconcat version 1.0\nfile '{victim}'\n".encode(),
        f"file '{victim}'\nfile '{address}'\n".encode(),
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
        f'<?xml version="1.0"?><MPD><BaseURL>{address}</BaseURL></MPD>'.encode(),
        f"RTSPtext\nRef1={address}\n".encode(),
        address.encode(),
        b"data:video/mp4;base64,AAAA",
        *(f"{scheme}{victim}" for scheme in ("file://", "rtsp://", "concat:", "subfile:,,start,0,end,9,,:", "data:")),
        address,
    ]
