"""The audio catalogue, A1 to A16, each broken file built in place; then channels, augmentation and tensors."""

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from chiasm.media.audio import Audio, wav_bytes
from chiasm.media.image import png_bytes
from chiasm.types import BadInput, Drawn, Sound
from made_media import sound_file as encoded
from made_media import tone
from made_media import wav_file as wav


def reason(data, root=None, **options):
    with pytest.raises(BadInput) as error:
        Audio(Audio.Options(**options)).open(data, root=root)
    assert "\n" not in str(error.value)
    return error.value.reason


def opened(data, **options):
    sound, notes = Audio(Audio.Options(**options)).open(data)
    assert sound.samples.dtype == np.float32 and sound.samples.ndim == 1 and np.abs(sound.samples).max() <= 1
    return sound.samples, notes


def test_a1_a2_missing_and_empty(tmp_path):
    assert reason("gone.wav", root=str(tmp_path)) == "not_found"
    (tmp_path / "empty.wav").touch()
    assert reason("empty.wav", root=str(tmp_path)) == reason(b"") == "empty"


def test_a3_a4_other_content():
    assert reason(b"<!DOCTYPE html><html>404</html>") == reason(png_bytes(np.zeros((8, 8, 3), np.uint8))) == "unknown_format"
    assert reason(b"RIFFthis is no sound") == reason(bytes(500)) == "unknown_format"
    assert reason(b"FORM\0\0\0\0AIFF") == reason(b"\0\0\0\x20ftypM4A ") == "format_not_allowed"


def test_a5_no_samples():
    assert reason(wav(b"")) == reason(encoded(np.zeros(0, np.float32), format="FLAC")) == "empty"


def test_a6_header_says_more_than_the_file_has():
    assert reason(wav(bytes(3000), says=32000)) == reason(encoded()[:-1]) == reason(encoded()[:40]) == "truncated"
    assert opened(wav(bytes(3200), says=0xFFFFFFFF))[0].shape == (1600,)  # as written to a pipe


def test_a7_odd_byte_count():
    assert reason(wav(bytes(3201))) == "corrupt"
    assert opened(wav(b"\x80" * 101, bits=8))[0].shape == (101,)


@pytest.mark.parametrize(("format", "subtype"), [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_a8_truncated(format, subtype, capfd):
    data = encoded(format=format, subtype=subtype)
    assert abs(len(opened(data)[0]) - 16000) < 200
    assert {reason(data[:cut]) for cut in (len(data) - 1, len(data) // 2, 200, 50)} == {"truncated"}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a9_a10_nonfinite(value):
    samples = tone()
    samples[77] = value
    assert reason(encoded(samples, subtype="FLOAT")) == reason(Sound(samples, 16000)) == "nonfinite"


def test_a11_clipped():
    samples, notes = opened(encoded(tone() * 3, subtype="FLOAT"))
    assert notes == ("clipped",) and np.abs(samples).max() == 1


def test_a12_silence_is_kept_and_noted():
    samples, notes = opened(encoded(np.zeros(1600, np.float32), format="FLAC"))
    assert notes == ("silent",) and len(samples) == 1600


@pytest.mark.parametrize("rate", [0, 1, 2_000_000_000])
def test_a13_bad_rate(rate):
    assert reason(wav(rate=rate)) == "bad_rate"


@pytest.mark.parametrize("channels", [0, 1024])
def test_a14_bad_channels(channels):
    assert reason(wav(bytes(4096), channels=channels)) == "bad_channels"


@pytest.mark.parametrize("format", ["WAV", "OGG", "FLAC"])
def test_a15_decoding_stops_at_the_window(format, monkeypatch):
    data = encoded(np.tile(tone(1, 8000), 120), 8000, format)
    decoded = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, frames, **k: decoded.append(frames) or read(self, frames, **k))
    samples, notes = opened(data, window="5s", sampling_rate=8000)
    assert len(samples) == 40_000 and notes == ("cut to length",) and sum(decoded) <= 48_000
    assert reason(data, window=5, on_long="error") == "too_long"
    assert len(opened(data, window="2min", on_long="error", sampling_rate=8000)[0]) == 960_000


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a16_resampling_keeps_a_tone(rate):
    samples, notes = opened(encoded(rate=rate))
    assert notes == ("resampled",) and len(samples) == 16000
    assert abs(int(np.abs(np.fft.rfft(samples)).argmax()) - 1000) <= 1  # bins of 1 Hz


def test_channels():
    left, right = tone(), 0.2 * tone(frequency=300)
    stereo = encoded(np.stack([right, left], axis=1))
    assert np.allclose(opened(stereo)[0], (left + right) / 2, atol=1e-3)
    assert np.allclose(opened(stereo, channel="first")[0], right, atol=1e-3)
    assert np.allclose(opened(stereo, channel="loudest")[0], left, atol=1e-3)
    cancelling = np.stack([left, -left], axis=1)
    for data in (encoded(cancelling), Sound(cancelling, 16000)):
        samples, notes = opened(data)
        assert notes == ("opposite phase: first channel used",) and np.allclose(samples, left, atol=1e-3)


def test_samples_are_accepted_as_they_are():
    for value in (Sound(tone(), 16000), tone(), Drawn("a", lambda: Sound(tone(), 16000)), {"array": tone(), "sampling_rate": 16000}):
        assert np.array_equal(opened(value)[0], tone())
    assert np.allclose(opened(Sound((tone() * 32768).astype(np.int16), 16000))[0], tone(), atol=1e-4)
    assert reason(3) == reason(None) == reason([0.1]) == "bad_type"
    assert reason(np.zeros((2, 2, 2), np.float32)) == reason(np.array(["a"])) == "bad_shape"
    assert reason(Sound(np.zeros(0, np.float32), 16000)) == "empty"


REASONS = {"truncated", "corrupt", "unknown_format", "format_not_allowed", "bad_rate", "bad_channels", "empty", "nonfinite"}


def outcome(data):
    try:
        return "sound" if len(opened(data)[0]) else "nothing"
    except BadInput as error:
        return error.reason


@pytest.mark.parametrize("times", [100, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_flipped_bytes_give_a_reason_or_a_sound(format, times):
    whole, generator = encoded(tone(0.2), format=format), np.random.default_rng(times)
    for _ in range(times):
        data = bytearray(whole)
        for place in generator.integers(min(len(data), 400), size=generator.integers(1, 4)):
            data[place] = generator.integers(256)
        cut = generator.integers(1, len(data) + 1) if generator.random() < 0.3 else len(data)
        assert outcome(bytes(data[:cut])) in {"sound", *REASONS}


def test_collate_pads_and_masks():
    gate = Audio()
    tensors = gate.collate([Sound(tone(0.5), 16000), Sound(tone(1), 16000)])
    assert tensors["input_values"].shape == tensors["input_values_mask"].shape == (2, 16000)
    assert tensors["input_values_mask"].dtype == torch.bool and tensors["input_values_mask"].sum(1).tolist() == [8000, 16000]
    assert (tensors["input_values"][0, 8000:] == 0).all() and torch.equal(tensors["input_values"][1], torch.from_numpy(tone()))
    fixed = Audio(Audio.Options(seconds=0.75))
    sound, notes = fixed.open(Sound(tone(1), 16000))
    assert len(sound.samples) == 12000 and notes == ("cut to length",)
    assert fixed.collate([Sound(tone(0.5), 16000), sound])["input_values"].shape == (2, 12000)


def test_augment_is_a_function_of_the_generator():
    gate = Audio(Audio.Options(augment={"shift": "100ms", "noise": 0.1, "gain": 6, "speed": 0.1}))
    sound = Sound(tone(), 16000)
    first, again, other = (gate.augment(sound, np.random.default_rng(seed)).samples for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first[:1000], other[:1000]) and np.array_equal(sound.samples, tone())
    assert first.dtype == np.float32 and np.abs(first).max() <= 1 and len(first) != len(sound.samples)
    assert np.array_equal(Audio().augment(sound, np.random.default_rng(0)).samples, sound.samples)


def test_unknown_options_are_refused():
    for wrong in ({"window": "long"}, {"windw": 3}, {"window": 0}, {"channel": "left"}, {"augment": {"noize": 1}}):
        with pytest.raises(ValidationError):
            Audio.Options(**wrong)


def test_wav_bytes_round_trip():
    assert np.allclose(opened(wav_bytes(Sound(tone(), 16000)))[0], tone(), atol=1e-4)
