"""Every bad input that there is a promise about (I1 to X8), built in place, and what it comes to in training, prediction and serving.

An outcome is `ok` (used as it is, or after a fix that the training's account notes), a reason code (quarantined in training, an error line
in prediction, status 400 from the server), `filtered` (no task can learn from the row), Stops (the training does not start) or Cannot (the
case cannot be put to that path; the words say why).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

import made_media as made

OK, FILTERED = "ok", "filtered"
NOT_DATA = "not_a_data_uri"


class Cannot(str):
    """Why a case cannot be put to a path."""


class Stops(str):
    """What the one line says with which a training stops at its start."""


@dataclass(frozen=True)
class Case:
    """`parts` replace those of a good row; the bytes of media become a file (`file` names it), or a part of a message. `record` is written
    as it is instead, into `source`; `body` is the server's. `note`: what the account of the training counts. `overrides`: of the recipe."""

    name: str
    train: str
    predict: str
    server: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    file: str = ""
    source: str = "rows.jsonl"
    record: bytes = b""
    body: bytes = b""
    overrides: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """What an error is about: the label, the text, the picture or clip; empty where it is the whole record."""
        return next((name for name in ("answer", "question", "image", "audio", "video") if name in self.parts), "")


def case(name: str, outcome: str = OK, /, *, train: str = "", predict: str = "", server: str = "", **more: Any) -> Case:
    """A case with one outcome on all three paths, but where another is given."""
    return Case(name, train or outcome, predict or train or outcome, server or outcome, **more)


def given(kind: str, name: str, data: Any, outcome: str = OK, *, note: str = "", **more: Any) -> Case:
    return case(name, outcome, parts={kind: data}, note=note and f"{kind}: {note}", **more)


# ---- pictures

HTML, JSON = b"<!DOCTYPE html><html>404</html>", b'{"error": "not found"}'
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
NOT_PICTURES = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "PDF": b"%PDF-1.7\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "FITS": b"SIMPLE  = T",
    "PSD": b"8BPS\0\1",
}


def image(name: str, data: Any, outcome: str = OK, **more: Any) -> Case:
    return given("image", name, data, outcome, **more)


def broken_pictures() -> Iterator[Case]:
    yield image("I1 missing file", "gone.png", train="not_found", server=NOT_DATA)
    yield image("I2 empty", b"", "empty")
    yield image("I3 HTML", HTML, "unknown_format", file="I3.jpg")
    yield image("I3 JSON", JSON, "unknown_format", file="I3 too.jpg")
    yield image("I3 a sound", made.sound_file(tone(), 8000), "unknown_format")
    yield image("I4 zeros", bytes(1000), "unknown_format")
    for format in FORMATS:
        data = made.picture_file(format)
        yield image(f"I5 header only, {format}", data[:20], "truncated")
        yield image(f"I6 half, {format}", data[: len(data) // 2], "truncated")
    yield image("I7 without its last byte", made.picture_file("JPEG")[:-1], "truncated")
    flipped = bytearray(made.picture_file())
    flipped[len(flipped) // 2] ^= 1
    yield image("I8 wrong checksum", bytes(flipped), "corrupt")
    for number, side in ((9, 9000), (10, 20_000)):
        pixels = bytes(side * (side // 8 + 1))
        yield image(f"I{number} {side} x {side}", made.png_file(side, side, depth=1, colour=0, pixels=pixels), "too_many_pixels")
    whole, bomb = made.picture_file(), zlib.compress(bytes(8_000_000), 9)
    for kind in (b"zTXt", b"iCCP"):
        yield image(f"I11 {kind.decode()} bomb", whole[:33] + made.chunk(kind, b"a\0\0" + bomb) + whole[33:], "metadata_bomb")
    not_a_number = np.full((8, 8), np.nan, np.float32)
    yield image("I18 NaN", made.saved(not_a_number, "TIFF"), "unsupported_mode")
    for format, data in NOT_PICTURES.items():
        yield image(f"I21 {format}", data + bytes(100), "format_not_allowed")


def odd_pictures() -> Iterator[Case]:
    """Those that are mended. `min_size` and `max_aspect` refuse I12 and I13 where a recipe says so; without them they are noted."""
    yield image("I12 1 x 1", made.picture_file(pixels=made.photograph(1, 1)), note="tiny")
    yield image("I13 1 x 5000", made.picture_file(pixels=made.photograph(5000, 1)), note="sliver")
    for mode, format in {"L": "PNG", "LA": "PNG", "P": "PNG", "PA": "TIFF", "1": "PNG"}.items():
        yield image(f"I14 mode {mode}", made.picture_file(format, mode=mode), note=f"converted from {mode}")
    clear = np.dstack([made.photograph(), np.full((40, 60), 99, np.uint8)])
    yield image("I15 transparent", made.picture_file(pixels=clear, mode="RGBA"), note="composited on white")
    cmyk = made.picture_file("JPEG", mode="CMYK")
    mark = cmyk.index(b"Adobe") + 11
    yield image("I16 CMYK", cmyk, note="converted from CMYK")
    yield image("I16 YCCK", cmyk[:mark] + b"\2" + cmyk[mark + 1 :], note="converted from CMYK")
    yield image("I17 16 bit", made.saved(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)), note="scaled from 16 bit")
    yield image("I18 numbers", made.saved(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "TIFF"), note="scaled from F")
    for number in (*range(2, 9), 999):
        stored, exif = made.with_orientation(made.photograph(24, 16), number)
        yield image(f"I19 EXIF {number}", made.picture_file("JPEG", stored, exif=exif), note="rotated" if number < 9 else "")
    colours = [PIL.Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "WEBP"):
        data = made.saved(colours[0], format, save_all=True, append_images=colours[1:], duration=80)
        yield image(f"I20 animated {format}", data, note="first of several frames")
        yield video(f"I20 animated {format} as a video", data)
    yield image("I22 a JPEG called png", made.picture_file("JPEG"), file="I22.png")
    yield image("I22 a JPEG that is a ZIP too", made.picture_file("JPEG") + b"PK\3\4 a zip")


# ---- sounds


def audio(name: str, data: Any, outcome: str = OK, **more: Any) -> Case:
    return given("audio", name, data, outcome, **more)


def tone(seconds: float = 0.4) -> np.ndarray:
    return made.tone(seconds, 8000)


def sounds() -> Iterator[Case]:
    yield audio("A1 missing file", "gone.wav", train="not_found", server="not_base64")
    yield audio("A2 empty", b"", "empty")
    yield audio("A3 HTML", HTML, "unknown_format")
    yield audio("A4 a picture", made.picture_file(), "unknown_format")
    yield audio("A5 no samples", made.wav_file(b"", rate=8000), "empty")
    yield audio("A6 header says more", made.wav_file(bytes(3000), rate=8000, says=32000), "truncated")
    yield audio("A6 header only", made.sound_file(tone(), 8000)[:30], "truncated")
    yield audio("A7 odd byte count", made.wav_file(bytes(3201), rate=8000), "corrupt")
    flac = made.sound_file(tone(), 8000, "FLAC")
    yield audio("A8 half a FLAC", flac[: len(flac) // 2], "truncated")
    for name, value in {"A9 NaN": np.nan, "A10 Inf": np.inf}.items():
        samples = tone()
        samples[77] = value
        yield audio(name, made.sound_file(samples, 8000, subtype="FLOAT"), "nonfinite")
    yield audio("A11 above full scale", made.sound_file(tone() * 3, 8000, subtype="FLOAT"), note="clipped")
    yield audio("A12 silence", made.sound_file(np.zeros(1600, np.float32), 8000), note="silent")
    for rate in (0, 1, 2_000_000_000):
        yield audio(f"A13 {rate} Hz", made.wav_file(rate=rate), "bad_rate")
    for channels in (0, 1024):
        yield audio(f"A14 {channels} channels", made.wav_file(bytes(4096), rate=8000, channels=channels), "bad_channels")
    yield audio("A15 longer than the window", made.sound_file(tone(2), 8000, "OGG"), note="cut to length")
    yield audio("A15 longer than a request's", made.sound_file(tone(61), 8000), note="cut to length", server="too_long")
    for rate in (44_100, 48_000):
        yield audio(f"A16 {rate} Hz", made.sound_file(made.tone(0.4, rate), rate), note="resampled")


# ---- videos


def video(name: str, data: Any, outcome: str = OK, **more: Any) -> Case:
    return given("video", name, data, outcome, **more)


def videos() -> Iterator[Case]:
    yield video("V1 missing file", "gone.mp4", train="not_found", server=NOT_DATA)
    yield video("V2 empty", b"", "empty")
    yield video("V3 HTML", HTML, "unknown_format")
    whole = made.film_file()
    yield video("V4 no index", whole[: whole.index(b"moov") - 4], "truncated")
    webm = made.film_file(100, codec="libvpx", format="webm", rate=1, g="10")
    places = made.packet_places(webm)
    yield video("V5 a few frames cut", webm[: places[-4]], note="breaks off")
    yield video("V5 a fifth cut", webm[: places[80]], "truncated")
    flipped = bytearray(made.film_file(40, codec="libx264"))
    place = made.packet_places(bytes(flipped))[12]
    flipped[place : place + 4] = b"\xff" * 4  # says how long the frame's data are
    yield video("V6 flipped bytes", bytes(flipped), "corrupt")
    yield video("V7 one frame", made.film_file(1), note="one frame, repeated")
    yield video("V8 no rate", made.without_a_rate(made.film_file(codec="mpeg4", format="avi")))
    for rate in (1, 1000):
        yield video(f"V8 {rate} a second", made.film_file(20, rate=rate))
    yield video("V8 any moment", made.film_file(8, ticks=[0, 10, 20, 30, 5000, 5010, 9000, 9500]))
    yield video("V9 no picture", made.sound_only(), "no_video_stream")
    for name, seconds in {"longer": 4.0, "shorter": 0.5}.items():
        yield video(f"V10 sound {name}", made.film_file(sound=seconds), note=f"its sound is {name} than its picture")
    yield video("V11 3,000 frames", made.film_file(3000, codec="mpeg4", rate=100, g="50", size=(16, 16)))
    for number, value in enumerate(made.leading_elsewhere("http://127.0.0.1:9/a.mp4", "/etc/passwd")):
        path, unknown = isinstance(value, str), value[:4] == b"RTSP"
        outcome = "unknown_format" if unknown else "demuxer_not_allowed"
        yield video(f"V12 elsewhere, {number}", value, train=outcome, server=NOT_DATA if path else outcome)
    yield video("V12 turned", made.turned(made.film_file(4), 1))


# ---- texts


def text(name: str, value: Any, outcome: str = OK, **more: Any) -> Case:
    return given("question", name, value, outcome, **more)


def raw(name: str, outcome: str, record: bytes, **more: Any) -> Case:
    """A line as it is, which is also the whole body of a request."""
    return case(name, outcome, record=record, **{"server": "not_json", "body": record, **more})


NO_LABEL = Cannot("a request has no label")
NO_TABLE = Cannot("a request is JSON: it has no columns to count")


def texts() -> Iterator[Case]:
    yield text("T1 empty", "", "empty", server=OK)  # beside a picture it is as no text
    yield text("T1 blank", " \n\t ", "empty")
    yield raw("T2 not UTF-8", "bad_encoding", b'{"question": "caf\xe9", "answer": "yes"}')
    yield raw("T2 not UTF-8 in a table", "bad_encoding", b"caf\xe9,yes,", source="table.csv", body=b'{"model": "caf\xe9"}')
    yield text("T3 byte order mark", "\ufeffis there a red cat ?", note="byte order mark removed")
    yield text("T4 control characters", "is there\0 a red\x1b cat ?", note="control characters removed")
    yield raw("T5 half a character", "lone_surrogate", b'{"question": "a \\ud83d cat", "answer": "yes"}')
    yield text("T6 200,000 characters", "is " * 66_667, "too_long")
    line = b'{"question": "' + b"a" * 10_000_001 + b'"}'
    yield raw("T6 a line of 10 MB", "too_long", line, body=b"", server=Cannot("a request is no line: see 200,000 characters"))
    yield text("T6 more tokens than positions", "is " * 100, "too_long")
    yield text("T7 special tokens", "is <image> a <|im_start|> red [CLS] cat </s> <pad> ?")
    yield text("T8 two forms of one letter, NFC", "a caf\u00e9 ?")
    yield text("T8 two forms of one letter, NFD", "a cafe\u0301 ?", note="normalised")
    for name, value in {"right to left": "שלום עולם", "Chinese": "日本語の文", "joined emoji": "👩‍👩‍👧‍👦 a red cat ?"}.items():
        yield text(f"T9 {name}", value)
    yield case("T10 no label", OK, train=FILTERED, predict=OK, server=NO_LABEL, parts={"answer": None})
    yield case("T11 unknown label", "unknown_label", server=NO_LABEL, parts={"answer": "yse"})
    yield text("T12 a number", 5, "bad_type", server="string_type")
    yield text("T12 NaN", float("nan"), "bad_type", server="not_json")
    yield text("T12 null beside a picture", None)
    yield raw("T13 too many cells", "wrong_columns", b"is there ?,yes,,7", source="table.csv", body=b"", server=NO_TABLE)
    yield raw("T13 open quote", "bad_csv", b'"is there ?,yes,', source="table.csv", body=b"", server=NO_TABLE)
    yield raw("T13 broken line", "bad_json", b'{"question": "is', body=b'{"model": "tiny", "messages": [')
    yield raw("T13 no object", "not_an_object", b'["is"]', server="model_attributes_type")
    yield text("T14 a record", "a blue dog ?")
    yield text("T14 the same again", "a blue dog ?")


# ---- rows


def rows() -> Iterator[Case]:
    turns = [{"role": "user", "content": "<image> is there a red cat ?"}, {"role": "assistant", "content": "yes"}]
    chat = json.dumps({"messages": turns, "images": ["good.png", "good.png"]}).encode()
    no_places = Cannot("a request has no places for pictures")
    yield raw("X1 two pictures, one place", "placeholder_mismatch", chat, source="chat.jsonl", body=b"", server=no_places)
    yield case("X1 two pictures, no place", parts={"image": [made.picture_file(), made.picture_file(pixels=made.photograph(20, 20))]})
    long = {"image": made.picture_file(), "question": "is " * 61}
    yield case("X2 no room for the picture", "too_long", parts=long)
    yield case("X3 no picture", OK, parts={"image": None})
    yield case("X4 nothing at all", "all_missing", server="empty", parts={"image": None, "question": None})
    paths = {"up": "../outside.png", "absolute": "/etc/passwd", "link": "link.png", "device": "/dev/zero", "pipe": "pipe"}
    for name, path in paths.items():
        yield image(f"X5 {name}", path, train="outside_root", server=NOT_DATA)
    for name in ("first", "again"):
        yield image(f"X6 one file, {name}", made.picture_file(pixels=made.photograph(30, 30)), file="X6.png")
    yield video("X7 sound 2 s longer", made.film_file(19, sound=4.0), note="its sound is longer than its picture")
    labels = "tasks.kind.labels=[yes, no, maybe]"
    learned = Cannot("labels are fixed when training starts")
    yield case("X8 label without rows", train=Stops("label 'maybe' never occurs"), predict=learned, server=learned, overrides=(labels,))


@cache
def cases() -> tuple[Case, ...]:
    """All of them, built once."""
    made_here = (broken_pictures(), odd_pictures(), sounds(), videos(), texts(), rows())
    return tuple(one for group in made_here for one in group)


# ---- as a data set, and as requests

GOOD = ({"image": "good.png"}, {"audio": "good.wav"}, {"image": "good.png", "video": "good.mp4"})
ENDINGS = {"image": ".png", "audio": ".wav", "video": ".mp4"}
QUESTIONS = ("is there a red cat ?", "what is this sound ?", "a blue dog and a green house near the old bridge")


@cache
def good_files() -> dict[str, bytes]:
    return {"good.png": made.picture_file(), "good.wav": made.sound_file(tone(), 8000), "good.mp4": made.film_file(4, rate=4)}


def good_row(number: int) -> dict[str, Any]:
    return {"question": QUESTIONS[number % 3], "answer": ("yes", "no")[number % 2], **GOOD[number % 3]}


def row_of(one: Case, folder: Path) -> dict[str, Any]:
    """The case's record; what it holds as bytes becomes files of the folder."""

    def stored(value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [stored(item, f"{number} {name}") for number, item in enumerate(value)]
        if isinstance(value, bytes):
            (folder / name).write_bytes(value)
            return name
        return value

    parts = {name: stored(value, one.file or f"{one.name}{ENDINGS.get(name)}") for name, value in one.parts.items()}
    return {name: value for name, value in (good_row(0) | parts).items() if value is not None}


def write(folder: Path) -> dict[str, Case | None]:
    """Every case that a data set can hold, each ahead of a good row, in three files. Record's id -> its case, None for a good one."""
    (folder.parent / "outside.png").write_bytes(good_files()["good.png"])
    (folder / "link.png").symlink_to("../outside.png")
    os.mkfifo(folder / "pipe")
    for name, data in good_files().items():
        (folder / name).write_bytes(data)
    good_chat = {"messages": [{"role": "user", "content": "is there ?"}, {"role": "assistant", "content": "yes"}], "images": ["good.png"]}
    lines: dict[str, list[bytes]] = {"rows.jsonl": [], "table.csv": [b"question,answer,image"], "chat.jsonl": []}
    good = {"rows.jsonl": lambda n: json.dumps(good_row(n)).encode(), "table.csv": lambda n: b"is there ?,no,good.png"}
    found: dict[str, Case | None] = {}
    for number, one in enumerate(one for one in cases() if not isinstance(one.train, Stops | Cannot)):
        record = one.record or json.dumps(row_of(one, folder)).encode()
        another = good[one.source](number) if one.source in good else json.dumps(good_chat).encode()
        for line, what in ((record, one), (another, None)):
            lines[one.source].append(line)
            found[f"{one.source}:{len(lines[one.source])}"] = what
    for name, written in lines.items():
        (folder / name).write_bytes(b"\n".join(written) + b"\n")
    return found
