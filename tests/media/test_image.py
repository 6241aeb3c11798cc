"""The image catalogue, I1 to I22, each broken file built in place; then sizes, augmentation and tensors."""

import io
import resource
import subprocess
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from pydantic import ValidationError

from chiasm.media.image import Image, png_bytes
from chiasm.preprocessing import picture_options
from chiasm.types import BadInput, Drawn
from made_media import chunk, photograph, saved, with_orientation
from made_media import picture_file as encoded
from made_media import png_file as png


def image(**options):
    return Image(Image.Options(**{"size": "original", **options}))


def reason(data, root=None, **options):
    with pytest.raises(BadInput) as error:
        image(**options).open(data, root=root)
    assert "\n" not in str(error.value)
    return error.value.reason


def test_i1_missing_file(tmp_path):
    assert reason("gone.png", root=str(tmp_path)) == "not_found"


def test_i2_empty(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert reason("empty.jpg", root=str(tmp_path)) == reason(b"") == "empty"


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>404</html>", b'{"error": "not found"}', bytes(1000), b"x"])
def test_i3_i4_other_bytes(data):
    assert reason(data) == "unknown_format"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_i5_i6_header_only_and_half(format):
    data = encoded(format)
    assert reason(data[:20]) == reason(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + b"\xff\xd9" * 50}])
def test_i7_jpeg_without_its_last_byte(options):
    data = encoded("JPEG", **options)
    assert image().open(data)[1] == ()
    assert reason(data[:-1]) == "truncated"


def test_i8_png_with_a_bad_checksum():
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "corrupt"


@pytest.mark.parametrize("side", [9000, 20_000])
def test_i9_i10_too_many_pixels_is_decided_from_the_header(side):
    data = png(side, side, depth=1, colour=0, pixels=bytes(side * (side // 8 + 1)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason(data) == "too_many_pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 20_000  # KiB


@pytest.mark.parametrize("late", [False, True])
def test_i11_metadata_bombs(late):
    bomb = zlib.compress(bytes(50_000_000), 9)
    for extra in (chunk(b"zTXt", b"a\0\0" + bomb), chunk(b"iCCP", b"a\0\0" + bomb)):
        data = encoded("PNG")
        at = len(data) - 12 if late and extra[4:8] == b"zTXt" else 33
        assert reason(data[:at] + extra + data[at:]) == "metadata_bomb"


def test_i12_i13_tiny_and_sliver_are_noted_or_refused():
    assert image().open(encoded(pixels=photograph(1, 1)))[1] == ("tiny",)
    assert image(size=8, resize="crop").open(encoded(pixels=photograph(5000, 1)))[1] == ("sliver",)
    assert reason(encoded(pixels=photograph(1, 1)), min_size=2) == "too_small"
    assert reason(encoded(pixels=photograph(5000, 1)), max_aspect=20) == "bad_aspect"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_i14_grey_and_palettes_are_converted(mode):
    pixels, notes = image().open(encoded("PNG", mode=mode))
    assert pixels.shape == (40, 60, 3) and notes == (f"converted from {mode}",)


def test_i14_palette_with_alpha():
    picture = PIL.Image.fromarray(photograph()).convert("PA")
    picture.putpalette([200, 10, 10] * 256)
    pixels, notes = image().open(picture)
    assert notes == ("converted from PA",) and pixels[0, 0].tolist() == [200, 10, 10]


def test_i15_transparency_is_composited_on_white():
    rgba = np.dstack([np.zeros((4, 8, 3), np.uint8), np.array([[0, 51, 255, 255] * 2] * 4, np.uint8)])
    pixels, notes = image().open(encoded("PNG", rgba, mode="RGBA"))
    assert notes == ("composited on white",) and pixels[0, :3, 0].tolist() == [255, 204, 0]
    keyed = encoded("PNG", np.zeros((8, 8, 3), np.uint8), mode="P", transparency=0)
    assert image().open(keyed)[0].min() == 255


def test_i16_cmyk_as_adobe_writes_it():
    red = np.zeros((16, 16, 3), np.uint8)
    red[:] = 255, 0, 0
    pixels, notes = image().open(encoded("JPEG", red, mode="CMYK"))
    assert notes == ("converted from CMYK",) and np.abs(pixels.astype(int) - red).max() < 12


def test_i17_16_bit_is_scaled():
    deep = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    pixels, notes = image().open(saved(deep))
    assert notes == ("scaled from 16 bit",) and np.array_equal(pixels[..., 0], np.rint(deep / 257))


def test_i18_float_tiff_is_scaled_and_nan_refused():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels, notes = image().open(saved(values, "TIFF"))
    assert notes == ("scaled from F",) and np.array_equal(pixels[..., 0], np.rint(values * 255))
    values[3, 3] = np.nan
    assert reason(saved(values, "TIFF")) == reason(values) == "unsupported_mode"


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 999])
def test_i19_exif_orientation(format, orientation):
    upright = photograph(6, 4)
    stored, exif = with_orientation(upright, orientation)
    data = encoded(format, stored, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    assert np.array_equal(image().open(data)[0], upright)


def test_i19_exif_that_cannot_be_read():
    assert image().open(encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk"))[1] == ()


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_i20_first_frame_of_several(format):
    frames = [PIL.Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    pixels, notes = image().open(saved(frames[0], format, save_all=True, append_images=frames[1:], duration=80))
    assert notes[0] == "first of several frames" and np.abs(pixels.astype(int) - [255, 0, 0]).max() < 12


NOT_ALLOWED = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"%PDF-1.7\n",
    b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    b"SIMPLE  = T",
]


@pytest.mark.parametrize("data", [*NOT_ALLOWED, b'<?xml version="1.0"?><svg/>', b"8BPS\0\1", b"\0\0\1\0\1\0", b"\0\0\0\x20ftypavif"])
def test_i21_other_formats_are_not_parsed(data, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    monkeypatch.setattr(PIL.Image, "open", lambda *a, **k: pytest.fail("a decoder was invoked"))
    assert reason(data + bytes(100)) == "format_not_allowed"


def test_i22_content_wins_over_the_name(tmp_path):
    (tmp_path / "really_a_jpeg.png").write_bytes(encoded("JPEG"))
    assert image().open("really_a_jpeg.png", root=str(tmp_path))[1] == ()
    assert image().open(encoded("JPEG") + b"PK\3\4 a zip")[1] == ()


REASONS = {"truncated", "corrupt", "unknown_format", "format_not_allowed", "too_many_pixels", "too_small", "unsupported_mode", "empty"}


def outcome(gate, data):
    try:
        return gate.open(data)[0].shape
    except BadInput as error:
        return error.reason


@pytest.mark.parametrize("times", [150, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_flipped_bytes_give_a_reason_or_a_picture(format, times):
    whole, generator, gate = encoded(format), np.random.default_rng(times), image(size=32)
    for _ in range(times):
        data = bytearray(whole)
        for place in generator.integers(len(data), size=generator.integers(1, 4)):
            data[place] = generator.integers(256)
        cut = generator.integers(1, len(data) + 1) if generator.random() < 0.3 else len(data)
        assert outcome(gate, bytes(data[:cut])) in {(32, 32, 3), *REASONS}


def test_arrays_drawings_and_pillow_images():
    pixels = photograph()
    for value in (pixels, Drawn("a", photograph), PIL.Image.fromarray(pixels), np.dstack([pixels, np.full((40, 60), 255, np.uint8)])):
        assert np.array_equal(image().open(value)[0], pixels)
    assert np.array_equal(image().open(pixels[..., 0])[0][..., 2], pixels[..., 0])
    assert np.abs(image().open(pixels / 255.0)[0].astype(int) - pixels).max() == 0
    for wrong in (np.zeros((3, 40, 60)), np.zeros((0, 4, 3)), np.array(["a"]), np.zeros(5)):
        assert reason(wrong) == "bad_shape"
    assert reason(3.5) == reason(None) == reason([1, 2]) == "bad_type"


def test_sizes():
    assert image(size=24).open(photograph())[0].shape == (24, 24, 3)
    assert image(size=[20, 30]).open(encoded("JPEG"))[0].shape == (20, 30, 3)
    cut = image(size=20, resize="crop").open(photograph(40, 60))[0]
    assert cut[10, 0, 1] > 30 and cut[10, -1, 1] < 220  # left and right are gone
    padded = image(size=30, resize="pad").open(photograph(40, 60))[0]
    assert (padded[:5] == 128).all() and (padded[-5:] == 128).all() and not (padded[6:24] == 128).all()
    assert image(size=16, resample="nearest").open(photograph())[0].shape == (16, 16, 3)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resizing_is_pillows(method):
    large = np.kron(np.random.default_rng(0).integers(0, 256, (30, 40, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    ours = image(size=64, resample=method).open(large)[0]
    theirs = np.asarray(PIL.Image.fromarray(large).resize((64, 64), PIL.Image.Resampling[method.upper()]))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_large_jpegs_stay_close_to_the_full_decode():
    data = encoded("JPEG", photograph(900, 1200), quality=95)
    full = PIL.Image.open(io.BytesIO(data)).resize((64, 64), PIL.Image.Resampling.BILINEAR)
    assert np.abs(image(size=64).open(data)[0].astype(int) - np.asarray(full)).mean() < 1


def test_collate():
    gate = image(size="original", mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 0.125])
    values = [photograph(), photograph()[::-1].copy()]
    pixel_values = gate.collate(values)["pixel_values"]
    assert pixel_values.shape == (2, 3, 40, 60) and pixel_values.dtype == torch.float32 and pixel_values.is_contiguous()
    expected = (np.stack(values) / 255 - gate.options.mean) / gate.options.std
    assert np.abs(pixel_values.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-5
    with pytest.raises(BadInput, match="different sizes"):
        gate.collate([photograph(), photograph(8, 8)])


def test_augment_is_a_function_of_the_generator():
    gate = image(size=32, augment={"shift": 0.2, "flip": True, "crop": 0.6, "jitter": 0.3})
    value, _ = gate.open(photograph())
    kept = value.copy()
    first, again, other = (gate.augment(value, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other) and np.array_equal(value, kept)
    assert first.shape == value.shape and first.dtype == np.uint8
    assert image().augment(value, np.random.default_rng(0)) is value
    assert gate.collate([first, other])["pixel_values"].shape == (2, 3, 32, 32)


def test_unknown_options_are_refused():
    for wrong in ({"sise": 3}, {"augment": {"shfit": 0.1}}, {"resize": "stretch"}, {"augment": {"crop": 0}}):
        with pytest.raises(ValidationError):
            Image.Options(**wrong)


def test_png_bytes_round_trip():
    assert np.array_equal(image().open(png_bytes(photograph()))[0], photograph())


PROCESSORS = {  # transformers' image processor with its settings
    "squash": ("ViTImageProcessorPil", {"size": {"height": 24, "width": 32}, "resample": 2}),
    "squash, bicubic": ("ViTImageProcessorPil", {"size": {"height": 24, "width": 24}, "resample": 3}),
    "nearest": ("ViTImageProcessorPil", {"size": {"height": 24, "width": 24}, "resample": 0}),
    "crop": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
    "crop of a larger one": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 29}, "crop_size": {"height": 24, "width": 24}}),
    "crop, wide": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 30}, "crop_size": {"height": 20, "width": 28}}),
    "ConvNeXt's crop": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 24}, "crop_pct": 0.875}),
    "no normalisation": ("ViTImageProcessorPil", {"size": {"height": 24, "width": 24}, "do_normalize": False}),
}


@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (24, 24), (7, 90), (300, 200)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_exact_is_transformers_own_preparation(name, shape):
    """To 1e-5 with `exact`; without it within one step of 255 almost everywhere (Pillow rounds between its two passes)."""
    kind, settings = PROCESSORS[name]
    reader = getattr(transformers, kind)(**settings)
    options = picture_options(reader.to_dict())
    rng = np.random.default_rng(sum(shape))
    pixels = np.array(PIL.Image.fromarray(photograph(*shape)).rotate(17)) ^ rng.integers(0, 32, (*shape, 3), dtype=np.uint8)
    for format in ("PNG", "JPEG"):
        data = encoded(format, pixels)
        theirs = reader(PIL.Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]
        exact = Image(Image.Options(**options, exact=True))
        ours = exact.collate([exact.open(data)[0]])["pixel_values"]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    if shape in ((40, 60), (61, 33), (300, 200)) and name != "nearest":
        quick, smooth = Image(Image.Options(**options)), photograph(*shape)
        ours = quick.collate([quick.open(encoded("PNG", smooth))[0]])["pixel_values"]
        theirs = reader(PIL.Image.fromarray(smooth), return_tensors="pt")["pixel_values"]
        step = 1 / 255 / min(options["std"])
        assert (ours - theirs).abs().mean() < (5 if options["resize"] == "crop" else 1) * step  # a cut may begin half a pixel away


def test_exact_of_a_grey_picture_is_that_of_its_rgb():
    exact = Image(Image.Options(size=12, resize="crop", exact=True))
    grey = photograph()[:, :, 0]
    assert np.array_equal(exact.open(grey)[0], exact.open(np.repeat(grey[:, :, None], 3, 2))[0])
