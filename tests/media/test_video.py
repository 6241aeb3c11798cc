"""The video catalogue, V1 to V12, each clip made in place; then moments, rotation, pictures as frames, augmentation and tensors."""

import itertools
import os
import resource
import socket
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from chiasm.data.split import Split
from chiasm.media import frames
from chiasm.media.image import Image, png_bytes
from chiasm.media.video import Listed, Video
from chiasm.types import BadInput, Drawn, Film
from made_media import animation, leading_elsewhere, packet_places, shade, sound_only, turned, without_a_rate
from made_media import film_file as clip

FILMS = Path(__file__).parents[3] / "shared" / "data" / "video"


def gate(**options):
    return Video(Video.Options(**{"size": "original", **options}))


def opened(data, root=None, **options):
    film, notes = gate(**options).open(data, root=root)
    assert film.frames.dtype == np.uint8 and film.frames.ndim == 4 and len(film.frames) == len(film.times)
    return film, notes


def reason(data, root=None, **options):
    with pytest.raises(BadInput) as error:
        gate(**options).open(data, root=root)
    assert "\n" not in str(error.value)
    return error.value.reason


def which(film, count=20):
    """The number of each frame, by its brightness."""
    return [round((float(frame[20:, 24:].mean()) - 20) / 200 * (count - 1)) for frame in film.frames]


def test_v1_v2_missing_and_empty(tmp_path):
    assert reason("gone.mp4", root=str(tmp_path)) == "not_found"
    (tmp_path / "empty.mp4").touch()
    assert reason("empty.mp4", root=str(tmp_path)) == reason(b"") == reason(tmp_path.name, root=str(tmp_path.parent)) == "empty"


def test_v3_other_content():
    assert reason(b"<!DOCTYPE html><html>404</html>") == reason(bytes(500)) == reason(b"RIFF\0\0\0\0WAVEfmt ") == "unknown_format"
    assert reason(png_bytes(shade(0))) == reason(b"8BPS\0\1") == "format_not_allowed"


def test_v4_no_index():
    data = clip()
    assert data[-4:] != b"moov" and reason(data[: data.index(b"moov") - 4]) == "truncated"
    assert reason(data[:40]) == reason(data[: data.index(b"moov") + 20]) == "truncated"


@pytest.mark.parametrize(("codec", "format"), [("libx264", "mp4"), ("libvpx", "webm"), ("mpeg4", "avi")])
def test_v5_half_of_it_is_missing(codec, format):
    data = clip(100, codec=codec, format=format, g="10")
    assert reason(data[: len(data) // 2], frames=4) in ("truncated", "corrupt")


def test_v5_a_few_missing_frames_are_noted():
    """Of 100 seconds the last few are gone; the header tells."""
    data = clip(100, codec="libvpx", format="webm", rate=1, g="10")
    places = packet_places(data)
    film, notes = opened(data[: places[-4]], frames=4)
    assert notes == ("breaks off",) and film.times.tolist() == [12.0, 36.0, 60.0, 84.0]
    assert reason(data[: places[80]], frames=4) == "truncated"


@pytest.mark.parametrize(("codec", "format"), [("libx264", "mp4"), ("mpeg4", "mp4"), ("libvpx", "webm")])
def test_v6_flipped_bytes_name_the_frame(codec, format):
    data, draw = clip(40, codec=codec, format=format), np.random.default_rng(0)
    said = []
    for _ in range(8):
        broken = bytearray(data)
        for place in draw.integers(len(data) // 3, 2 * len(data) // 3, 20):
            broken[place] ^= 0xFF
        try:
            assert len(opened(bytes(broken), frames=8)[0].frames) == 8
        except BadInput as error:
            said.append((error.reason, str(error)))
    assert len(said) >= 5 and {code for code, _ in said} <= {"corrupt", "truncated", "no_video_stream", "format_not_allowed"}
    assert any(code == "corrupt" and "frame " in message for code, message in said)


def test_v7_one_frame_is_repeated():
    film, notes = opened(clip(1), frames=4)
    assert "one frame, repeated" in notes and film.frames.shape == (4, 32, 48, 3) and np.ptp(film.frames, axis=0).max() == 0
    assert len(opened(clip(1))[0].frames) == 1
    assert opened(clip(2, rate=1), frames=4)[1] == ("some frames repeated",)


def test_v8_frames_are_taken_by_time():
    """Two frames a second of 20 seconds, whatever the frame rate; a variable one too."""
    for rate in (1, 10, 1000):
        film, notes = opened(clip(20, rate=rate), fps=rate / 4)
        assert notes == () and which(film) == [2, 6, 10, 14, 18]
    ticks = [0, 10, 20, 30, 5000, 5010, 9000, 9500]
    film, _ = opened(clip(8, ticks=ticks), frames=4)
    assert which(film, 8) == [3, 3, 5, 5] and film.times.tolist() == pytest.approx([0.03, 0.03, 5.01, 5.01], abs=0.002)


def test_v8_a_clip_without_a_rate():
    data = without_a_rate(clip(codec="mpeg4", format="avi"))
    assert len(opened(data, frames=4)[0].frames) == 4


def test_v9_no_picture_in_it():
    assert reason(sound_only()) == "no_video_stream"


@pytest.mark.parametrize(
    ("sound", "notes"), [(2.0, ()), (4.0, ("its sound is longer than its picture",)), (0.5, ("its sound is shorter than its picture",))]
)
def test_v10_sound_of_another_length_is_noted(sound, notes):
    assert opened(clip(sound=sound), frames=2)[1] == notes


def test_v11_only_the_wanted_frames_are_kept(monkeypatch):
    """Of 3,000 frames four are turned into pixels, and the decoder starts at the key frames before them."""
    data = clip(3000, codec="mpeg4", rate=100, g="50", size=(16, 16))
    turned, decoded = [], []
    monkeypatch.setattr(frames, "_upright", lambda frame: turned.append(frame.pts) or np.zeros((16, 16, 3), np.uint8))
    advanced = frames._Reader._advanced
    monkeypatch.setattr(frames._Reader, "_advanced", lambda self, enough: [advanced(self, enough), decoded.append(self.count)][0])
    film, _ = opened(data, frames=4)
    assert len(film.frames) == len(turned) == 4 and decoded[-1] < 250


@pytest.mark.slow
def test_v11_memory_of_20_000_frames():
    data = clip(20_000, codec="mpeg4", rate=100, g="100", size=(64, 48))
    opened(data[:], frames=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    film, _ = opened(data, frames=64)
    assert len(film.frames) == 64
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # kilobytes


def test_v12_nothing_that_leads_elsewhere_is_followed(tmp_path, monkeypatch):
    """The container is told by its first bytes, so libav is not even asked; no socket and no other file is opened."""
    (tmp_path / "victim.mp4").write_bytes(clip(2))
    (tmp_path / "list.mp4").write_bytes(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/victim.mp4\n".encode())
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("libav was asked"))
    gate()  # so that no module is imported while opened files are listed
    events, watching = [], [True]
    sys.addaudithook(lambda event, args: events.append((event, args)) if watching and event.split(".")[0] in ("socket", "open") else None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        events.clear()
        for value in [*leading_elsewhere(address, tmp_path / "victim.mp4"), "list.mp4"]:
            assert reason(value, root=str(tmp_path)) in ("demuxer_not_allowed", "unknown_format"), value
        watching.clear()
        with pytest.raises(BlockingIOError):
            server.accept()
    assert {Path(args[0]).name for event, args in events if event == "open" and isinstance(args[0], str)} == {"list.mp4"}
    assert not [event for event, _ in events if event.startswith("socket")]
    assert reason(b"#EXTM3U\n") == reason(b"ffconcat version 1.0") == reason(b"v=0\r\n") == reason("rtsp://a/b") == "demuxer_not_allowed"


def test_only_the_demuxer_of_the_first_bytes_is_used():
    """An MP4 whose rest is a playlist is an MP4; and what a file refers to is refused."""
    assert which(opened(clip(codec="mpeg4", format="avi"), frames=4)[0]) == [2, 7, 12, 17]
    assert reason(b"\0\0\0\x18ftypisom" + b"#EXTM3U\nhttp://127.0.0.1:9/a\n") == "truncated"
    with pytest.raises(BadInput) as error:
        frames.open_nothing("http://127.0.0.1/a", 0, {})
    assert error.value.reason == "demuxer_not_allowed"


@pytest.mark.parametrize(
    ("codec", "format"), [("libx264", "mp4"), ("libx264", "avi"), ("libvpx", "webm"), ("libvpx-vp9", "webm"), ("ffv1", "matroska")]
)
def test_codecs_and_containers(codec, format):
    film, notes = opened(clip(codec=codec, format=format, g="7"), frames=4)
    assert notes == () and which(film) == [2, 7, 12, 17]
    assert film.times.tolist() == pytest.approx([0.2, 0.7, 1.2, 1.7], abs=0.002)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_rotation_of_the_file_is_applied(turns):
    """Clockwise by so many quarters."""
    found, straight = opened(turned(clip(4), turns), frames=1)[0].frames[0], opened(clip(4), frames=1)[0].frames[0]
    assert np.array_equal(found, np.rot90(straight, -turns))
    assert found.shape == ((32, 48, 3) if turns == 2 else (48, 32, 3))


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_animations(format):
    film, _ = opened(animation(format=format), fps=2.5)
    assert which(film, 8) == [1, 3, 5, 7] and film.times.tolist() == pytest.approx([0.2, 0.6, 1.0, 1.4])
    assert reason(animation(format=format)[:100]) in ("corrupt", "unknown_format")


def test_limits():
    assert reason(clip(), max_pixels=1000) == "too_many_pixels"
    assert reason(clip(), max_bytes=1000) == "too_large"
    for options in ({"frames": 0}, {"fps": 0}, {"max_frames": 0}, {"window": 0}, {"frames_per_second": 1}):
        with pytest.raises(ValidationError):
            Video.Options(**options)


def test_how_many_frames():
    data = clip(100)  # 10 seconds
    assert which(opened(data)[0], 100) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    film, notes = opened(data, fps=5, max_frames=4)
    assert len(film.frames) == 4 and notes == ("fewer frames than fps asks for",)
    film, notes = opened(data, window="2s", frames=2)
    assert which(film, 100) == [5, 15] and notes == ("cut to length",)
    assert len(opened(data, fps=1000, max_frames=1000)[0].frames) == 100  # never more than there are


def test_frames_as_pictures(tmp_path):
    """A list, a folder and an array of the same frames."""
    pictures = [shade(number, 12) for number in range(12)]
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number + 1}.png").write_bytes(png_bytes(picture))
    (tmp_path / "clips").mkdir()
    names, root = [f"{number + 1}.png" for number in range(12)], str(tmp_path)
    reader = gate(frames=4, frame_rate=2.0, listed="frames")
    expected = Film(np.stack([pictures[number] for number in (1, 4, 7, 10)]), [0.5, 2.0, 3.5, 5.0])
    listed = reader.raw({"video": names}, "video")
    assert listed == Listed(tuple(names)) and gate().raw({"video": names}, "video") == names
    for value in (listed, tmp_path.name, np.stack(pictures), Drawn("a", partial(np.stack, pictures))):
        film, notes = reader.open(value, root=root if value is listed else str(tmp_path.parent))
        assert np.array_equal(film.frames, expected.frames) and film.times.tolist() == expected.times and notes == ()
    assert reader.identity(listed, root=root) == reader.identity(listed, root=root) != reader.identity(Listed(("1.png",)), root=root)
    assert reader.identity(tmp_path.name, root=str(tmp_path.parent)) == reader.identity(listed, root=root)
    assert reason(Listed(("1.png", "gone.png")), root=root, frames=2) == "not_found"
    assert reason(np.zeros((4, 8, 8), np.uint8)) == "bad_shape" and reason(np.zeros((0, 8, 8, 3), np.uint8)) == "empty"
    assert reason(7) == "bad_type"


def test_a_list_is_several_clips_or_the_frames_of_one(tmp_path):
    class Rows:
        columns = ("video",)

        def __init__(self, value):
            self.value = value

        def read(self, index):
            from chiasm.types import Sample

            return Sample("a", {"video": self.value}, root=str(tmp_path))

        def origin(self, index):
            return "a", "rows", 1

    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(clip(4 + number))
        (tmp_path / f"{number}.png").write_bytes(png_bytes(shade(number)))
    several = Split(Rows(["0.mp4", "1.mp4"]), {"video": gate(frames=2)}).open(0)
    assert [len(film.frames) for film in several.values["video"]] == [2, 2] and len(set(several.keys["video"])) == 2
    one = Split(Rows(["0.png", "1.png"]), {"video": gate(frames=2, listed="frames")}).open(0)
    assert isinstance(one.values["video"], Film) and isinstance(one.keys["video"], str)
    assert Split(Rows(["0.png", "1.png"]), {"video": gate()}).open(0).reason == "format_not_allowed"


def test_frames_are_brought_to_size_as_pictures_are():
    options = {"size": 16, "resize": "crop", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    film, _ = opened(clip(4, codec="ffv1", format="matroska"), frames=2, **options)
    raw, _ = opened(clip(4, codec="ffv1", format="matroska"), frames=2)
    picture = Image(Image.Options(**options))
    wanted = picture.collate([picture.open(frame)[0] for frame in raw.frames])["pixel_values"]
    assert torch.equal(gate(**options).collate([film])["pixel_values_videos"][0], wanted)


def test_tensors_are_padded_to_the_longest():
    long, short = (opened(clip(count), fps=5)[0] for count in (20, 8))
    found = gate().collate([long, short])
    assert found["pixel_values_videos"].shape == (2, 10, 3, 32, 48) and found["video_mask"].sum(1).tolist() == [10, 4]
    assert (found["pixel_values_videos"][1, 4:] == 0).all() and (found["video_times"][1, 4:] == 0).all()
    assert torch.equal(gate().collate([short])["pixel_values_videos"][0], found["pixel_values_videos"][1, :4])
    torch.testing.assert_close(found["video_times"][1, :4], torch.tensor(short.times))
    assert set(found) == set(Video.tensors)


def test_augmentation_is_alike_for_all_frames_and_drawn_from_its_generator():
    data = clip(100)
    varied = gate(frames=5, augment={"start": 1.0, "shift": 0.3, "flip": True, "jitter": 0.2})
    first, again, *others = (varied.open_varied(data, np.random.default_rng(seed))[0] for seed in (1, 1, 2, 3, 4, 5))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.times, again.times)
    assert not any(np.array_equal(first.times, other.times) for other in others)
    assert all(film.times.min() >= 0 and film.times.max() <= 9.9 for film in others)
    assert varied.open(data)[0].times.tolist() == pytest.approx([1, 3, 5, 7, 9])  # exact outside of training
    still = Film(np.stack([shade(0)] * 3), np.arange(3.0))
    for a, b in itertools.pairwise(varied.augment(still, np.random.default_rng(7)).frames):
        assert np.array_equal(a, b)
    assert np.array_equal(gate().augment(still, np.random.default_rng(0)).frames, still.frames)


def test_training_varies_the_moments_by_seed_epoch_and_clip(tmp_path):
    from chiasm.data.sources.jsonl import JsonLines

    (tmp_path / "a.mp4").write_bytes(clip(100))
    (tmp_path / "rows.jsonl").write_text('{"video": "a.mp4"}\n')
    split = Split(JsonLines(tmp_path / "rows.jsonl"), {"video": gate(frames=4, augment={"start": 1.0})})
    times = [
        tuple(split.open(0, seed=seed, epoch=epoch, augment=True).values["video"].times) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert times[0] == times[1] and len(set(times)) == 3


@pytest.mark.skipif(not FILMS.is_dir(), reason="the data folder is not here")
def test_real_films():
    film, notes = gate(size=64, frames=4).open("cockatoo.mp4", root=str(FILMS))
    assert film.frames.shape == (4, 64, 64, 3) and film.times.tolist() == pytest.approx([1.75, 5.25, 8.75, 12.25]) and notes == ()
    film, _ = gate(size=64).open("newtonscradle.gif", root=str(FILMS))
    assert 1 <= len(film.frames) <= 4 and film.frames.std() > 10
    assert os.path.isdir(FILMS)
