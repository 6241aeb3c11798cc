"""A run as an architecture of transformers: equal logits, its own processor and `generate`; or the reason why there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration, VisionEncoderDecoderModel

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
from tiny_models import assembled, picture

from chiasm.export.names import LLAVA, VISION_ENCODER_DECODER, renamed
from chiasm.export.transformers import compared, fold, write
from chiasm.types import ChiasmError

ASKS = {"image": {"modality": "image", "size": 16}, "question": "text"}
VIT = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 8}


def sees(fusion: dict, backbone: str, encoder: dict, **changes):
    """What the export reads of a run: its model and processor."""
    inputs = {**ASKS, **changes.pop("inputs", {})}
    model, processor = assembled(fusion, backbone, inputs=inputs, encoders={"image": encoder}, **changes)
    return SimpleNamespace(model=model, processor=processor)


@pytest.mark.parametrize("width", [16, 32])
@torch.no_grad()
def test_vision_encoder_decoder(width, tmp_path):
    """With a projection, and (32, the backbone's width) without one, where ours is folded into what reads it."""
    run = sees({"type": "cross_attention", "weights": "backbone"}, "gpt2", {"arch": "vit", "hidden_size": width, **VIT})
    lines, facts, _ = write(run, tmp_path, tmp_path)
    assert facts["architecture"] == "VisionEncoderDecoderModel" and facts["max_difference"] < 1e-4 and "wrote" in lines[0]
    theirs, tokenizer = VisionEncoderDecoderModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(picture(0), return_tensors="pt")["pixel_values"]
    inputs = run.processor(text="is there a red cat ?", images=[picture(0)])
    torch.testing.assert_close(pixels, inputs["pixel_values"], rtol=1e-4, atol=1e-4)
    prompt = tokenizer(tokenizer.bos_token + "is there a red cat ?", return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert torch.equal(prompt, inputs["input_ids"])
    written = theirs.generate(pixel_values=pixels, decoder_input_ids=prompt, max_new_tokens=4, do_sample=False)
    assert torch.equal(written, run.model.generate(**inputs, max_new_tokens=4, do_sample=False))


@pytest.mark.parametrize(("options", "resize"), [({"layer": -2, "class_token": False}, "squash"), ({"layer": -1}, "crop")])
@torch.no_grad()
def test_llava(options, resize, tmp_path):
    encoder = {"arch": "clip_vision_model", "hidden_size": 16, **VIT, "connector": "mlp", **options}
    changes = {"inputs": {"image": {**ASKS["image"], "resize": resize}}}
    run = sees({"type": "early"}, "llama", encoder, **changes)
    _, facts, _ = write(run, tmp_path, tmp_path)
    assert facts["architecture"] == "LlavaForConditionalGeneration" and facts["max_difference"] < 1e-4
    theirs, processor = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    inputs = run.processor(text="<image>is there a red cat ?", images=[picture(0)])
    found = processor(text="<s><image>is there a red cat ?", images=[picture(0)], return_tensors="pt", add_special_tokens=False)
    assert torch.equal(found["input_ids"], inputs["input_ids"])
    torch.testing.assert_close(found["pixel_values"], inputs["pixel_values"], rtol=1e-4, atol=1e-4)
    written = theirs.generate(**found, max_new_tokens=4, do_sample=False)
    assert torch.equal(written, run.model.generate(**inputs, max_new_tokens=4, do_sample=False))


@pytest.mark.parametrize(
    ("fusion", "backbone", "encoder", "reason"),
    [
        ({"type": "gated_cross_attention"}, "gpt2", {"arch": "vit", "hidden_size": 16, **VIT}, "weights: backbone"),
        ({"type": "early"}, "gpt2", {"arch": "vit", "hidden_size": 16, **VIT, "connector": "mlp"}, "does not run on a gpt2 backbone"),
        ({"type": "early"}, "llama", {"arch": "vit", "hidden_size": 16, **VIT}, "its connector is mlp"),
        (
            {"type": "early", "normalize": True},
            "llama",
            {"arch": "vit", "hidden_size": 16, **VIT, "connector": "mlp"},
            "it adds nothing to the tokens",
        ),
        ({"type": "early"}, "llama", {"arch": "vit", "hidden_size": 16, **VIT, "train": {"lora": {"rank": 2}}}, "low-rank adapters"),
    ],
)
def test_what_has_no_architecture_there_says_why_and_what_loads_it(fusion, backbone, encoder, reason, tmp_path):
    with pytest.raises(ChiasmError, match=reason) as found:
        write(sees(fusion, backbone, encoder), tmp_path, tmp_path)
    assert "AutoModelForMultimodalLM" in str(found.value) and "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def test_two_inputs_have_no_architecture_there(tmp_path):
    model, processor = assembled({"type": "early"}, "llama")
    with pytest.raises(ChiasmError, match="one image beside the text, and this run reads image, audio"):
        write(SimpleNamespace(model=model, processor=processor), tmp_path, tmp_path)


@torch.no_grad()
def test_logits_that_differ_are_refused(tmp_path):
    run = sees({"type": "cross_attention", "weights": "backbone"}, "gpt2", {"arch": "vit", "hidden_size": 16, **VIT})
    write(run, tmp_path, tmp_path)
    theirs = VisionEncoderDecoderModel.from_pretrained(tmp_path).eval()
    theirs.enc_to_dec_proj.weight.mul_(1.1)
    with pytest.raises(ChiasmError, match="does not compute the same: logits differ by"):
        compared(run.model, theirs, "VisionEncoderDecoderModel")


def test_a_projection_folds_into_keys_and_values():
    """(x W + b) C + c = x (W C) + (b C + c), against numpy."""
    generator = np.random.default_rng(0)
    x, w, b, c, d = (generator.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4, 4), (4,), (4, 8), (8,)))
    name = "decoder.transformer.h.0.crossattention.c_attn"
    weights = {"enc_to_dec_proj.weight": torch.tensor(w.T), "enc_to_dec_proj.bias": torch.tensor(b)}
    weights |= {f"{name}.weight": torch.tensor(c), f"{name}.bias": torch.tensor(d)}
    fold(weights)
    found = x @ weights[f"{name}.weight"].numpy() + weights[f"{name}.bias"].numpy()
    np.testing.assert_allclose(found, (x @ w + b) @ c + d, rtol=1e-4, atol=1e-4)
    assert set(weights) == {f"{name}.weight", f"{name}.bias"}


def test_a_weight_without_a_place_is_named():
    for pairs in (LLAVA, VISION_ENCODER_DECODER):
        with pytest.raises(ChiasmError, match=r"weight 'model\.fusion\.x' has no place"):
            renamed({"lm_head.weight": 1, "model.fusion.x": 2}, pairs, "photo")
    assert renamed({"model.encoders.photo.network.a.b": 1}, LLAVA, "photo") == {"model.vision_tower.a.b": 1}
