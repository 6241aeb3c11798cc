"""The gateway as a whole: decoders are imported in media/ only, every modality keeps the contract, awkward files from outside."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from awkward_media import AWKWARD, KINDS, entries
from chiasm import components
from chiasm.media.audio import Audio
from chiasm.media.image import Image
from chiasm.media.video import Video
from chiasm.types import BadInput

REPOSITORY = Path(__file__).parents[2]
DECODERS = re.compile(
    r"^\s*(?:import|from)\s+(PIL|av|soundfile|soxr|torchvision|torchaudio|torchcodec|imageio|cv2|librosa)\b", re.MULTILINE
)
DRAWING = re.compile(r"^\s*from PIL import (?:Image|ImageDraw|ImageFont)(?:, (?:Image|ImageDraw|ImageFont))*$", re.MULTILINE)
OPENING = re.compile(r"\bImage\.open\(")


def test_decoders_are_imported_in_media_only():
    source = REPOSITORY / "src"
    for path in source.rglob("*.py"):
        text, inside = path.read_text(encoding="utf-8"), path.relative_to(source).parts[1:2] == ("media",)
        if "scenes" in path.parts and not OPENING.search(text):
            text = DRAWING.sub("", text)  # the built-in pictures are drawn with Pillow, which opens nothing there
        assert inside or not DECODERS.search(text), f"{path} imports {DECODERS.search(text).group(1)}; use chiasm.media"


@pytest.mark.parametrize("name", components.names("modality"))
def test_every_modality_names_its_tensors_and_has_help_for_its_options(name):
    modality = components.find("modality", name)()
    assert isinstance(modality.tensors, tuple) and modality.state() == json.loads(json.dumps(modality.state()))
    assert all(field.description for field in modality.Options.model_fields.values())
    with pytest.raises(BadInput):
        modality.open(object())


def opened_or_refused(gate, file):
    try:
        return gate.open(file, root=str(AWKWARD))[0]
    except BadInput as error:
        return error


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="the data folder is not here")
def test_awkward_files():
    gates = {"image": Image(Image.Options(size=64)), "audio": Audio(), "video": Video(Video.Options(size=64))}
    checked = 0
    for entry in entries():
        gate = gates.get(KINDS.get(Path(entry["file"]).suffix, ""))
        if gate is None:
            continue
        checked += 1
        outcome = opened_or_refused(gate, entry["file"])
        if isinstance(outcome, BadInput):
            assert entry["expect"] != "ok" and entry["file"] in str(outcome), f"{entry}: {outcome}"
        else:
            assert entry["expect"] != "error", entry
            assert all(torch.isfinite(tensor).all() for tensor in gate.collate([outcome]).values())
    assert checked >= 30


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="the data folder is not here")
def test_awkward_files_are_turned_and_scaled():
    gate = Image(Image.Options(size="original"))
    assert gate.open("exif6_a.jpg", root=str(AWKWARD))[0].shape == (170, 256, 3)
    deep, _ = gate.open("gray16_a.png", root=str(AWKWARD))
    assert 20 < deep.mean() < 235
