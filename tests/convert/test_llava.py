"""LLaVA checkpoints as Chiasm runs: equal logits, words and pixels, with rows of unequal length."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForMultimodalLM, AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parent))
from tiny_checkpoints import SIZES, SMALLER, image_processor, picture_file, spread, tokenizer_of

import chiasm
from chiasm.types import ChiasmError

EYE = {"model_type": "clip_vision_model", **SMALLER, "image_size": 16, "patch_size": 8}
SIGLIP = {**EYE, "model_type": "siglip_vision_model"}
READER = {**SIZES, "initializer_range": 0.15, "num_key_value_heads": 2, "max_position_embeddings": 64}
CASES = {  # vision config, text config, the rest, where the tokenizer begins a text
    "clip-llama": (EYE, {"model_type": "llama", **READER}, {}, "llama"),
    "clip-qwen2, all of the last layer": (
        EYE,
        {"model_type": "qwen2", **READER, "tie_word_embeddings": True},
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "multimodal_projector_bias": False},
        "gpt2",
    ),
    "siglip-qwen3, first layer": (
        SIGLIP,
        {"model_type": "qwen3", **READER, "head_dim": 8},
        {"vision_feature_layer": 1, "vision_feature_select_strategy": "full", "projector_hidden_act": "gelu_pytorch_tanh"},
        "llama",
    ),
}
TEMPLATE = (
    "{% for m in messages %}user : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} assistant :"
)


def save(folder: Path, vision: dict, text: dict, more: dict, like: str) -> LlavaForConditionalGeneration:
    """A checkpoint in `folder`, and the model that transformers loads from it."""
    torch.manual_seed(5)
    tokenizer = tokenizer_of(like=like, extra=("<image>",))
    tokenizer.chat_template = TEMPLATE
    words = {
        "vocab_size": len(tokenizer) + 3,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": 2,
        "eos_token_id": tokenizer.eos_token_id,
    }
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config={**text, **words}, image_token_index=image, **more)
    model = spread(LlavaForConditionalGeneration(config))
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(16, crop=True, resample=3).save_pretrained(folder)
    return LlavaForConditionalGeneration.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_words_and_pixels_are_equal(tmp_path, name):
    theirs = save(tmp_path / "checkpoint", *CASES[name])
    done = chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    assert max(done.differences.values()) <= 1e-5 and not done.dropped and not done.fresh
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "run" / "model").eval()
    reader = AutoProcessor.from_pretrained(tmp_path / "run" / "model")
    files = [picture_file(tmp_path, seed, width=31 + 8 * seed) for seed in range(3)]
    prepared = transformers.AutoImageProcessor.from_pretrained(tmp_path / "checkpoint", use_fast=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    run = reader.placeholder_counts["image"]
    full = CASES[name][2].get("vision_feature_select_strategy") == "full"
    whole = transformers.LlavaProcessor(
        prepared, tokenizer, patch_size=8, vision_feature_select_strategy="full" if full else "default",
        num_additional_image_tokens=int(CASES[name][0] is EYE),
    )  # fmt: skip
    texts = ["user : <image> is there a red cat ? assistant :", "<image> yes", "what is this sound ? <image> a blue dog"]
    pictures = [transformers.image_utils.load_image(str(file)) for file in files]
    wanted = whole(images=pictures, text=texts, padding=True, padding_side="left", return_tensors="pt")
    given = reader(images=[file.read_bytes() for file in files], text=texts)
    assert torch.equal(given["input_ids"], wanted["input_ids"]) and torch.equal(given["attention_mask"], wanted["attention_mask"])
    assert (given["input_ids"] == theirs.config.image_token_id).sum(1).tolist() == [run] * 3
    torch.testing.assert_close(given["pixel_values"], wanted["pixel_values"], rtol=0, atol=1e-5)
    inputs = {key: wanted[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    mask, places = inputs["attention_mask"].bool(), (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    torch.testing.assert_close(model(**given).logits[mask], theirs(**inputs, position_ids=places).logits[mask], rtol=0, atol=1e-5)
    for beams in (1, 3):  # ours never writes a placeholder, so theirs must not either
        settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "suppress_tokens": [theirs.config.image_token_id]}
        assert torch.equal(model.generate(**given, **settings), theirs.generate(**inputs, **settings))


@torch.no_grad()
def test_the_run_answers_in_the_words_of_the_chat_template(tmp_path):
    theirs = save(tmp_path / "checkpoint", *CASES["clip-llama"])
    chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    run, file = chiasm.load(tmp_path / "run"), picture_file(tmp_path)
    assert run.recipe.tasks["answer"].options["prompt"] == "user : {image} {question} assistant :"
    given = run.processor(images=[file.read_bytes()], text=["user : <image> is there a cat ? assistant :"])
    settings = {"max_new_tokens": 32, "do_sample": False, "suppress_tokens": [theirs.config.image_token_id]}
    written = theirs.generate(**{k: given[k] for k in ("input_ids", "attention_mask", "pixel_values")}, **settings)
    expected = run.processor.decode_texts(written[:, given["input_ids"].shape[1] :])[0]
    assert run.answer(image=file, question="is there a cat ?") == expected


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer: .* several layers side by side are not supported"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "vision_feature_select_strategy: default drops a class token"),
        ({"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type: pixtral cannot be converted"),
        ({"text_config": {"model_type": "gemma2"}}, "text_config.final_logit_softcapping: a language model that scales its logits"),
        ({"projector_hidden_act": "tanh"}, "projector_hidden_act: tanh is not supported; these are: gelu"),
    ],
)
def test_what_has_no_place_is_refused_by_its_key(tmp_path, change, says):
    LlavaConfig(**change).save_pretrained(tmp_path / "c")
    with pytest.raises(ChiasmError, match=says) as found:
        chiasm.convert(tmp_path / "c", tmp_path / "run")
    assert "\n" not in str(found.value)
