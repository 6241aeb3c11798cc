"""VisionEncoderDecoder checkpoints as Chiasm runs: equal logits, words and pixels; what cannot be converted is refused by its key."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForMultimodalLM, AutoProcessor, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

sys.path.insert(0, str(Path(__file__).parent))
from tiny_checkpoints import SIZES, SMALLER, image_processor, picture_file, spread, tokenizer_of

import chiasm
from chiasm.types import ChiasmError

EYES = {
    "vit": {**SIZES, "image_size": 16, "patch_size": 8},
    "vit narrow": {**SMALLER, "image_size": 24, "patch_size": 8},
    "deit": {**SIZES, "image_size": 16, "patch_size": 8},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16, "patch_size": 4},
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 48, "initializer_range": 0.3}
CASES = {  # encoder, decoder, whether words and word head are one
    "vit-gpt2": ("vit", "gpt2", True),
    "vit-gpt2 of two widths, head of its own": ("vit narrow", "gpt2", False),
    "deit-bert": ("deit", "bert", True),
    "swin-bert, head of its own": ("swin", "bert", False),
}


def save(folder: Path, eye: str, reader: str, tied: bool, **generation) -> VisionEncoderDecoderModel:
    """A checkpoint in `folder`, and the model that transformers loads from it."""
    torch.manual_seed(len(str(folder)))
    tokenizer = tokenizer_of(like=reader)
    words = len(tokenizer) + 2  # a few more than the tokenizer has, as checkpoints do
    encoder = transformers.AutoConfig.for_model(eye.split()[0], **EYES[eye])
    sizes = GPT2 if reader == "gpt2" else {**SIZES, "max_position_embeddings": 48}
    decoder = transformers.AutoConfig.for_model(reader, vocab_size=words, **sizes, tie_word_embeddings=tied)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(config)
    if not tied:
        model.decoder.get_output_embeddings().weight = torch.nn.Parameter(torch.randn_like(model.decoder.get_input_embeddings().weight))
    starts = tokenizer.bos_token_id if reader == "gpt2" else tokenizer.cls_token_id
    ends = tokenizer.eos_token_id if reader == "gpt2" else tokenizer.sep_token_id
    for holder in (model.config, model.generation_config):
        holder.decoder_start_token_id, holder.eos_token_id, holder.pad_token_id = starts, ends, tokenizer.pad_token_id
    model.generation_config.update(**generation)
    spread(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(EYES[eye]["image_size"]).save_pretrained(folder)
    return VisionEncoderDecoderModel.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_words_and_pixels_are_equal(tmp_path, name):
    theirs = save(tmp_path / "checkpoint", *CASES[name])
    done = chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    assert max(done.differences.values()) <= 1e-5 and not done.fresh
    assert all("pooler" in key or key == "decoder.cls.predictions.bias" for key in done.dropped)
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "run" / "model").eval()
    reader = AutoProcessor.from_pretrained(tmp_path / "run" / "model")
    files = [picture_file(tmp_path, seed, width=30 + 20 * seed, suffix=".jpg" if seed == 2 else ".png") for seed in range(3)]
    given = reader(images=[file.read_bytes() for file in files])
    prepared = transformers.AutoImageProcessor.from_pretrained(tmp_path / "checkpoint", use_fast=False)
    pixels = prepared([transformers.image_utils.load_image(str(file)) for file in files], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given["pixel_values"], pixels, rtol=0, atol=1e-5)

    ids = torch.randint(theirs.config.decoder.vocab_size, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(6) < torch.tensor([[6], [3], [1]])
    wanted = theirs(pixel_values=pixels, decoder_input_ids=ids, decoder_attention_mask=mask.long()).logits
    found = model(input_ids=ids, attention_mask=mask.long(), pixel_values=pixels).logits
    torch.testing.assert_close(found[mask], wanted[mask], rtol=0, atol=1e-5)
    assert given["input_ids"].tolist() == [[theirs.generation_config.decoder_start_token_id]] * 3
    for beams in (1, 3):
        settings = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
        assert torch.equal(model.generate(**given, **settings), theirs.generate(pixels, **settings))
    assert not torch.equal(theirs.generate(pixels[:1], max_new_tokens=8), theirs.generate(pixels[1:2], max_new_tokens=8))


@torch.no_grad()
def test_the_run_answers_as_the_checkpoint_does(tmp_path):
    theirs = save(tmp_path / "checkpoint", "vit", "gpt2", tied=True, max_length=6, num_beams=2, do_sample=False)
    chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    run, file = chiasm.load(tmp_path / "run"), picture_file(tmp_path)
    pixels = run.processor(images=[file.read_bytes()])["pixel_values"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert run.answer(image=file) == tokenizer.decode(theirs.generate(pixels)[0], skip_special_tokens=True).strip()
    assert run.recipe.tasks["caption"].options["generation"] == {"num_beams": 2, "max_new_tokens": 5}
    (tmp_path / "data.jsonl").write_text(f'{{"image": "{file.name}", "caption": "{run.answer(image=file)}"}}\n')
    assert run.evaluate(data=tmp_path / "data.jsonl").metrics["caption.exact_match"] == 1.0


@pytest.mark.parametrize(
    ("eye", "reader", "change", "says"),
    [
        ("vit", "roberta", {}, "decoder.model_type: roberta cannot be converted; these can: gpt2, bert"),
        ("resnet", "gpt2", {}, "encoder.model_type: resnet cannot be converted; these can: vit"),
        ("vit", "gpt2", {"cross_attention_hidden_size": 32}, "decoder.cross_attention_hidden_size: not supported"),
    ],
)
def test_what_has_no_place_is_refused_by_its_key(tmp_path, eye, reader, change, says):
    decoder = transformers.AutoConfig.for_model(reader)
    for key, value in change.items():
        setattr(decoder, key, value)
    VisionEncoderDecoderConfig.from_encoder_decoder_configs(transformers.AutoConfig.for_model(eye), decoder).save_pretrained(tmp_path / "c")
    with pytest.raises(ChiasmError, match=says) as found:
        chiasm.convert(tmp_path / "c", tmp_path / "run")
    assert "\n" not in str(found.value) and not (tmp_path / "run").exists()
