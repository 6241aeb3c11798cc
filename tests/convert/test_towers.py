"""CLIP and SigLIP checkpoints as Chiasm runs: equal embeddings, logits and pixels; what they teach can be trained from scratch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMultimodalLM, AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
from tiny_checkpoints import SIZES, SMALLER, WORDS, image_processor, picture_file, spread, tokenizer_of

import chiasm
from chiasm.assemble import build
from chiasm.recipe import load_recipe
from chiasm.types import Batch, ChiasmError, Sample

TEXTS = ["is there a red cat ?", "yes", "a blue dog and a green house near the old bridge"]
EYE, NARROW = ({**sizes, "image_size": 16, "patch_size": 8} for sizes in (SIZES, SMALLER))
READS, SHORT = ({**sizes, "max_position_embeddings": 12} for sizes in (SMALLER, SIZES))
CASES = {  # model type, vision config, text config, the rest, logit scale
    "clip": ("clip", EYE, READS, {"projection_dim": 20}, 2.0),
    "clip of one width, old end token, steep": (
        "clip",
        {**EYE, "hidden_act": "gelu"},
        {**SHORT, "eos_token_id": 2},
        {"projection_dim": 32},
        4.7,
    ),
    "clip narrow, fresh temperature": (
        "clip",
        NARROW,
        {**READS, "hidden_act": "gelu"},
        {"projection_dim": 8, "logit_scale_init_value": 1.5},
        1.5,
    ),
    "siglip": ("siglip", EYE, {**READS, "projection_size": 32}, {}, 4.76),
    "siglip of one width": ("siglip", NARROW, {**READS, "projection_size": 24}, {}, 2.3),
    "siglip wide texts": ("siglip", NARROW, {**SHORT, "projection_size": 24}, {}, 3.0),
}


def save(folder: Path, kind: str, vision: dict, text: dict, more: dict, scale: float):
    """A checkpoint in `folder`, and the model that transformers loads from it."""
    torch.manual_seed(3)
    tokenizer = tokenizer_of(like=kind)
    eos = text.get("eos_token_id", tokenizer.eos_token_id)
    if eos == 2:  # CLIP's first checkpoints: the end of a text is then its highest id
        tokenizer.add_special_tokens({"eos_token": "</end>"})
        ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</end>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </end>", special_tokens=ends)
    words = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 2, "eos_token_id": eos}
    config = transformers.AutoConfig.for_model(kind, vision_config=vision, text_config={**text, **words}, **more)
    model = spread(transformers.AutoModel.from_config(config))
    with torch.no_grad():
        model.logit_scale.fill_(scale)
        if kind == "siglip":
            model.logit_bias.fill_(-7.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(16, crop=kind == "clip", short=20 if kind == "clip" else None, resample=3).save_pretrained(folder)
    return transformers.AutoModel.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_embeddings_logits_and_pixels_are_equal(tmp_path, name):
    theirs = save(tmp_path / "checkpoint", *CASES[name])
    done = chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    assert max(done.differences.values()) <= 1e-5 and not done.dropped and not done.fresh
    assert done.parameters == sum(p.numel() for p in theirs.parameters())
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "run" / "model").eval()
    reader = AutoProcessor.from_pretrained(tmp_path / "run" / "model")
    files = [picture_file(tmp_path, seed, height=33 + 9 * seed) for seed in range(2)]
    given = reader(images=[file.read_bytes() for file in [*files, files[0]]], caption=TEXTS)
    kind = CASES[name][0]
    prepared = transformers.AutoImageProcessor.from_pretrained(tmp_path / "checkpoint", use_fast=False)
    pixels = prepared([transformers.image_utils.load_image(str(file)) for file in files], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given["pixel_values"][:2], pixels, rtol=0, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    padding = "max_length" if kind == "siglip" else True
    read = tokenizer(TEXTS, padding=padding, max_length=12, padding_side="right", truncation=True, return_tensors="pt")
    assert torch.equal(read["input_ids"], given["token_ids"])
    seen = {"attention_mask": read["attention_mask"]} if kind == "clip" else {}
    wanted = theirs(input_ids=read["input_ids"], pixel_values=pixels, **seen)
    index = {"image_index": torch.tensor([[0], [1], [0]]), "caption_index": torch.arange(3).unsqueeze(1)}
    streams = model.encode({"image": {"pixel_values": pixels}, "caption": {k: given[k] for k in ("token_ids", "token_mask")}})
    scores, of_picture, of_text = model.tasks["align"].scores(model, Batch("align", list("abc"), index, {}), streams)
    torch.testing.assert_close(scores, wanted.logits_per_image, rtol=0, atol=1e-5)
    assert (of_picture.tolist(), of_text.tolist()) == ([0, 1, 0], [0, 1, 2])
    features = torch.stack([torch.nn.functional.normalize(v[0], dim=-1) for v in model.get_image_features(pixels).pooler_output])
    torch.testing.assert_close(features, wanted.image_embeds, rtol=0, atol=1e-5)

    run = chiasm.load(tmp_path / "run")
    found = [run.predict([{"image": files[0], "caption": text}])[0] for text in TEXTS]
    torch.testing.assert_close(torch.tensor([f.output["caption"] for f in found]), wanted.text_embeds, rtol=0, atol=1e-5)
    alike = torch.tensor([f.score for f in found])
    torch.testing.assert_close(alike, wanted.text_embeds @ wanted.image_embeds[0], rtol=0, atol=1e-5)
    assert set(run.answer(image=files[0])) == {"image"}


def recipe(**task):
    text = {"arch": "siglip_text_model", **READS, "projection_size": 32, "pooled": True, "connector": {"type": "linear", "always": False}}
    return {
        "inputs": {
            "image": {"modality": "image", "size": 16},
            "caption": {"modality": "text", "tokenizer": "words", "max_tokens": 12, "filled": True},
        },
        "encoders": {
            "image": {"arch": "siglip_vision_model", **EYE, "pooled": True, "connector": {"type": "linear", "always": False}},
            "caption": text,
        },
        "backbone": {"kind": "latent", "latents": 0, "hidden_size": 32},
        "fusion": "none",
        "tasks": {"align": {"type": "contrast", "between": ["image", "caption"], "project": False, "loss": "sigmoid", **task}},
    }


def test_sigmoid_loss_is_siglips_and_reaches_every_weight():
    samples = [Sample(f"{i}", {"caption": word}) for i, word in enumerate(WORDS)]
    model, processor = build(load_recipe(recipe(bias=-2.0)), samples)
    given = processor(images=[torch.rand(16, 16, 3).numpy() for _ in range(3)], caption=WORDS[:3])
    batch = Batch("align", list("abc"), {k: given[k] for k in ("image_index", "caption_index")}, {"weight": 3.0, "same": {}})
    pool = {"image": {"pixel_values": given["pixel_values"]}, "caption": {k: given[k] for k in ("token_ids", "token_mask")}}
    task, streams = model.tasks["align"], model.encode(pool)
    scores, _, _ = task.scores(model, batch, streams)
    diagonal = 2 * torch.eye(3) - 1
    expected = -torch.nn.functional.logsigmoid(diagonal * scores).sum(-1).mean()  # SiglipModel.forward's
    loss = task.loss(model, batch, streams).total / 3
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.abs().sum())]
    assert model(**given).last_hidden_state.shape == (3, 0, 32)


def test_without_a_backbone_only_towers_are_compared():
    given = {**recipe(), "fusion": "late", "tasks": {"choice": {"type": "classify", "target": "label"}}}
    with pytest.raises(ChiasmError, match="tasks.choice: nothing reads its inputs together \\(backbone.latents: 0\\)"):
        build(load_recipe(given), [Sample("a", {"caption": "yes", "label": "x"})])


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("siglip", {"vision_config": {"vision_use_head": False}}, "vision_config.vision_use_head: false"),
        ("siglip", {"text_config": {"projection_size": 5}}, "text_config.projection_size: not the width"),
        (
            "clip",
            {"architectures": ["CLIPForImageClassification"]},
            "architectures: CLIPForImageClassification cannot be converted; of clip these can",
        ),
    ],
)
def test_what_has_no_place_is_refused_by_its_key(tmp_path, kind, change, says):
    transformers.AutoConfig.for_model(kind, **change).save_pretrained(tmp_path / "c")
    with pytest.raises(ChiasmError, match=says) as found:
        chiasm.convert(tmp_path / "c", tmp_path / "run")
    assert "\n" not in str(found.value)
