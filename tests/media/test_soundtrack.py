"""The sound of a video file: heard as it is, cut where it is long enough, refused by name where there is none."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

import chiasm
from chiasm.media.audio import Audio
from chiasm.types import BadInput

RATE = 48_000
TONES = {"left": 440.0, "right": 1000.0}  # Hz
FORMATS = {"mp4": "aac", "mov": "aac", "matroska": "mp3", "webm": "libopus", "avi": "pcm_s16le"}
PICTURES = {"webm": "libvpx", "avi": "mpeg4"}


def film(format: str = "mp4", *, seconds: float = 1.5, sound: bool = True, stereo: bool = False) -> bytes:
    """A video of grey frames whose sound is a tone, or one to each side."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        pictures = container.add_stream(PICTURES.get(format, "libx264"), rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 48, 32, "yuv420p"
        layout = "stereo" if stereo else "mono"
        track = container.add_stream(FORMATS[format], rate=RATE, layout=layout) if sound else None
        for number in range(round(10 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 128, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if track is not None:
            waves = [0.5 * np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE) for hertz in TONES.values()]
            samples = np.stack(waves if stereo else waves[:1]).astype(np.float32)
            whole = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            whole.sample_rate = RATE
            resampler = av.AudioResampler(
                format=track.format.name, layout=layout, rate=RATE, frame_size=track.codec_context.frame_size or 1024
            )
            for frame in [*resampler.resample(whole), *resampler.resample(None)]:
                container.mux(track.encode(frame))
            container.mux(track.encode())
    return file.getvalue()


def heard(data: object, root: str | None = None, **options: object):
    return Audio(Audio.Options(of_video=True, **options)).open(data, root=root)


def pitch(samples: np.ndarray, rate: int) -> float:
    """The loudest frequency, in Hz."""
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples))


@pytest.mark.parametrize("format", FORMATS)
def test_it_is_what_was_recorded(format: str):
    sound, notes = heard(film(format))
    assert sound.rate == 16_000 and abs(len(sound.samples) / sound.rate - 1.5) < 0.1
    middle = sound.samples[4000:-4000]  # an encoder rings at the edges
    assert pitch(middle, sound.rate) == pytest.approx(440, abs=2) and np.sqrt(np.square(middle).mean()) == pytest.approx(
        0.5 / 2**0.5, abs=0.02
    )
    assert notes == ("resampled",)


def test_a_channel_is_chosen_as_in_any_sound():
    first, _ = heard(film(stereo=True), channel="first")
    mixed, _ = heard(film(stereo=True))
    assert pitch(first.samples, 16_000) == pytest.approx(440, abs=2)
    spectrum = np.abs(np.fft.rfft(mixed.samples))
    peaks = {round(hertz * len(mixed.samples) / 16_000) for hertz in TONES.values()}
    assert all(spectrum[max(0, peak - 2) : peak + 3].max() > 0.5 * spectrum.max() for peak in peaks)


def test_no_more_is_decoded_than_is_kept(monkeypatch: pytest.MonkeyPatch):
    sound, notes = heard(film(seconds=4.0), seconds=0.5)
    assert len(sound.samples) == 8000 and "cut to length" in notes
    with pytest.raises(BadInput, match="longer than 2 s") as error:
        heard(film(seconds=4.0), window=2, on_long="error")
    assert error.value.reason == "too_long"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (film(sound=False), "no_audio_stream"),
        (film()[:3000], "truncated"),
        (b"GIF89a" + bytes(40), "no_audio_stream"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "unknown_format"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "demuxer_not_allowed"),
    ],
)
def test_what_has_no_sound_to_hear_is_refused(data: bytes, reason: str):
    with pytest.raises(BadInput) as error:
        heard(data)
    assert error.value.reason == reason and "\n" not in str(error.value)


def test_without_the_option_a_video_is_no_sound():
    with pytest.raises(BadInput) as error:
        Audio(Audio.Options()).open(film())
    assert error.value.reason == "format_not_allowed"


def test_flipped_bytes_give_a_reason_or_a_sound():
    whole, draws = film(), np.random.default_rng(0)
    for _ in range(30):
        data = bytearray(whole)
        for at in draws.integers(0, len(data), 8):
            data[at] ^= int(draws.integers(1, 256))
        try:
            sound, _ = heard(bytes(data))
        except BadInput as error:
            said = f"{error.reason}: {error}"
        else:
            said = "a sound" if np.isfinite(sound.samples).all() else "nonsense\n"
        assert "\n" not in said


def test_one_file_is_seen_and_heard(tmp_path: Path):
    """Two inputs of one column: what moves, and what is heard."""
    (tmp_path / "clip.mp4").write_bytes(film())
    (tmp_path / "rows.jsonl").write_text('{"video": "clip.mp4", "question": "what ?", "answer": "a tone"}\n' * 4, encoding="utf-8")
    recipe = {
        "inputs": {
            "video": {"modality": "video", "frames": 2, "size": 16},
            "audio": {"modality": "audio", "column": "video", "of_video": True, "seconds": 0.5, "sampling_rate": 8000},
            "question": "text",
        },
        "encoders": {
            "video": {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [16], "depths": [1], "layer_type": "basic", "grid": 1},
            "audio": {
                "arch": "wav2vec2",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "conv_dim": [16, 16],
                "conv_stride": [5, 4],
                "conv_kernel": [10, 8],
                "num_conv_pos_embeddings": 8,
                "num_conv_pos_embedding_groups": 2,
            },
        },
        "backbone": {"arch": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "tokenizer": "words"},
        "fusion": "cross_attention",
        "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 3}}},
        "data": {name: str(tmp_path / "rows.jsonl") for name in ("train", "validation", "test")},
        "stages": [{"steps": 2, "batch_size": 4, "learning_rate": 1e-3}],
        "train": {"precision": "fp32", "device": "cpu"},
    }
    run = chiasm.train(recipe, output=tmp_path / "run", progress=False)
    assert run.data_counts["train"]["used"] == 4
    assert "answer.exact_match[audio shuffled]" in run.metrics["test"]
