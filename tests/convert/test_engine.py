"""What holds for every system: what cannot be converted is told in one line, and nothing is written then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from test_visual_bert import CASES, save

import chiasm
from chiasm.convert.engine import systems
from chiasm.types import ChiasmError


def refused(folder: Path, output: Path, match: str) -> None:
    with pytest.raises(ChiasmError, match=match) as found:
        chiasm.convert(folder, output)
    assert "\n" not in str(found.value)


def test_an_unknown_system_names_those_that_can_be_converted(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path / "c")
    refused(tmp_path / "c", tmp_path / "run", "a bert cannot be converted; these can: " + ", ".join(systems()))
    assert systems() == ["clip", "llava", "siglip", "vision_encoder_decoder", "visual_bert"]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    refused(tmp_path / "c", tmp_path / "run", "run: not empty")


def test_a_weight_without_a_place_and_one_that_stays_empty_are_named(tmp_path, monkeypatch):
    save(tmp_path / "c", *CASES["reasoning"])
    from chiasm.convert import visual_bert

    original = visual_bert.VisualBert.move

    def forgetful(self, weights, model):
        weights.take("cls.bias")
        original(self, weights, model)

    monkeypatch.setattr(visual_bert.VisualBert, "move", forgetful)
    refused(tmp_path / "c", tmp_path / "run", "1 weight\\(s\\) of the converted model stay empty: heads.answer.1.bias")

    def blind(self, weights, model):
        original(self, weights, model)
        weights._used.discard("cls.bias")

    monkeypatch.setattr(visual_bert.VisualBert, "move", blind)
    refused(tmp_path / "c", tmp_path / "run", "1 weight\\(s\\) have no place in the converted model: cls.bias")
    assert not (tmp_path / "run").exists()


def test_outputs_that_differ_are_an_error(tmp_path, monkeypatch):
    save(tmp_path / "c", *CASES["reasoning"])
    from chiasm.convert import visual_bert

    original = visual_bert.VisualBert.move

    def wrong(self, weights, model):
        original(self, weights, model)
        weights.target["heads.answer.1.bias"] = weights.target["heads.answer.1.bias"] + 1e-3

    monkeypatch.setattr(visual_bert.VisualBert, "move", wrong)
    refused(tmp_path / "c", tmp_path / "run", "logits of the converted model differ by 0.001 from transformers'; nothing was written")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_lacks_a_weight_is_refused_with_all_that_it_lacks(tmp_path):
    save(tmp_path / "c", *CASES["reasoning"])
    file = tmp_path / "c" / "model.safetensors"
    weights = load_file(file)
    for name in ("cls.bias", "visual_bert.encoder.layer.1.output.dense.bias", "visual_bert.encoder.layer.2.output.dense.bias"):
        del weights[name]
    save_file(weights, file, {"format": "pt"})
    refused(
        tmp_path / "c",
        tmp_path / "run",
        "3 weight\\(s\\) are not in the checkpoint, .*cls \\(bias\\); .*layer.\\{1,2\\}.output.dense \\(bias\\)",
    )
