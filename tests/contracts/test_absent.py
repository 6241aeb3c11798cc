"""`fusion.absent: learned`: an input that a row lacks is seen as one learned token, by every strategy, and nothing else changes."""

from __future__ import annotations

import copy
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import (
    CAUSAL,
    FUSIONS,
    LOG_MEL,
    NEITHER_DROPS,
    OWN_WEIGHTS,
    VIT,
    assembled,
    cells,
    marked,
    picture,
    prepared,
    results,
    routed,
    sound,
)

from chiasm.types import RecipeError

CELLS = [cell for cell in cells() if cell[0] != "none" and cell[1] != "qwen3"]
every_cell = pytest.mark.parametrize(("fusion", "backbone"), marked(CELLS))
every_fusion = pytest.mark.parametrize(("fusion", "backbone"), [cell for cell in CELLS if cell[1] == "gpt2"])


@lru_cache(maxsize=64)
def tiny(fusion, backbone):
    model, processor = assembled({**FUSIONS.get(fusion, OWN_WEIGHTS), "absent": "learned"}, backbone)
    with torch.no_grad():
        for gate in model.fusion.gates():
            gate.fill_(0.5)
        for token in absent_tokens(model).values():
            token.copy_(torch.randn_like(token))
    return model, processor


def absent_tokens(model):
    return {name: p for name, p in model.fusion.named_parameters() if name.endswith(".absent")}


def same(left, right, within=1e-5):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within * max(1.0, float(a.abs().max())))


@every_cell
@torch.no_grad()
def test_fu4_an_absent_input_is_as_one_that_is_not_passed(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    for kept in ({"image"}, {"audio"}, set()):
        image, audio = ([picture(0) if "image" in kept else None], [sound(0) if "audio" in kept else None])
        alone = results(model, prepared(processor, [0], image=image, audio=audio))
        beside = results(model, prepared(processor, [0, 1], image=[*image, [picture(1), picture(2)]], audio=[*audio, sound(1)]))
        assert torch.isfinite(alone[0]).all()
        same(alone, beside[:1])


@every_fusion
@torch.no_grad()
def test_it_is_seen_by_the_rows_that_lack_the_input_and_by_no_other(fusion, backbone):
    original, processor = tiny(fusion, backbone)
    model = copy.deepcopy(original)
    inputs = prepared(processor, [0, 1, 2], image=[picture(0), None, picture(2)], audio=[sound(0), sound(1), sound(2)])
    before = results(model, inputs)
    for name, token in absent_tokens(model).items():
        if name.endswith("image.absent"):
            token.add_(torch.randn_like(token))
    after = results(model, inputs)
    for row in (0, 2):
        assert torch.equal(before[row], after[row])
    assert not torch.allclose(before[1], after[1], atol=1e-4)


@every_fusion
def test_fu9_it_gets_a_gradient_and_none_without_absent_rows(fusion, backbone):
    model, processor = copy.deepcopy(tiny(fusion, backbone))
    tokens = absent_tokens(model)
    assert {name.split(".")[-2] for name in tokens} == {"image", "audio"}
    for images, sounds, moves in (([None, picture(1)], [sound(0), None], True), ([picture(0), picture(1)], [sound(0), sound(1)], False)):
        model.zero_grad()
        found = torch.cat(results(model.train(), prepared(processor, [0, 1], image=images, audio=sounds)))
        (found * torch.randn_like(found)).sum().backward()
        for name, token in tokens.items():
            assert torch.isfinite(token.grad).all() and bool(token.grad.abs().max() > 1e-6) == moves, name


@every_fusion
@torch.no_grad()
def test_fu15_generate_with_a_cache_equals_without(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3, "output_scores": True, "return_dict_in_generate": True}
    for images in ([None, picture(1)], [None, None]):
        inputs = prepared(processor, [0, 2], image=images, audio=[sound(0), None], padding_side="left")
        cached, plain = (model.generate(**inputs, **settings, do_sample=False, use_cache=cache) for cache in (True, False))
        assert torch.equal(cached.sequences, plain.sequences)
        torch.testing.assert_close(torch.stack(cached.scores), torch.stack(plain.scores), rtol=1e-4, atol=1e-4)


@every_fusion
@torch.no_grad()
def test_fu15_teacher_forced_equals_token_by_token(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 2], image=[None, picture(1)], audio=[None, None], padding_side="left")
    prompt, mask = inputs["input_ids"], inputs["attention_mask"]
    answer = torch.tensor([processor.encode([text], user=True)[0][:2] for text in ("is there", "a blue")])
    ids, seen = torch.cat([prompt, answer], 1), torch.cat([mask, torch.ones_like(answer)], 1)
    whole = model(**{**inputs, "input_ids": ids, "attention_mask": seen}, prompt_lengths=mask.sum(1)).logits
    streams = routed(model, inputs)
    output = model(input_ids=prompt, attention_mask=mask, streams=streams, use_cache=True)
    steps = [output.logits[:, -1]]
    for t in range(prompt.shape[1], ids.shape[1]):
        past = output.past_key_values
        output = model(ids[:, t : t + 1], seen[:, : t + 1], past_key_values=past, use_cache=True, streams=streams)
        steps.append(output.logits[:, -1])
    torch.testing.assert_close(whole[:, -3:], torch.stack(steps, 1), rtol=1e-4, atol=1e-4)


@every_fusion
@torch.no_grad()
def test_fu10_bfloat16(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 1], image=[None, picture(1)])
    half = copy.deepcopy(model).bfloat16()
    for exact, rough in zip(results(model, inputs), results(half, inputs), strict=True):
        assert rough.dtype == torch.bfloat16
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.995


@pytest.mark.parametrize(("fusion", "backbone"), [("early", "gpt2"), ("early", "bert"), ("cross_attention", "gpt2"), ("hybrid", "gpt2")])
@torch.no_grad()
def test_a_saved_model_and_its_processor_do_the_same(fusion, backbone, tmp_path):
    model, processor = tiny(fusion, backbone)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = AutoModelForMultimodalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    before, after = (prepared(p, [0, 1], image=[None, picture(1)]) for p in (processor, reader))
    assert torch.equal(before["input_ids"], after["input_ids"])
    same(results(model, before), results(again, after), within=1e-6)


@pytest.mark.parametrize("backbone", CAUSAL)
@torch.no_grad()
def test_early_shows_it_at_the_first_placeholder(backbone):
    """Where the prompt is written with an image's places and there is none, the first shows the token and the others are hidden."""
    model, processor = tiny("early", backbone)
    inputs = processor(text=["<audio><image>what is this sound ?"])  # the order in which loose ones are put in front
    places = inputs["input_ids"][0] == model.config.placeholder_ids["image"]
    assert places.sum() == processor.placeholder_counts["image"]
    loose = processor(text=["what is this sound ?"])  # the processor makes room for one of each
    assert (loose["input_ids"] == model.config.placeholder_ids["image"]).sum() == 1
    same([model(**inputs).logits[0, -5:]], [model(**loose).logits[0, -5:]])
    bare = {**loose, "input_ids": loose["input_ids"][:, loose["input_ids"][0] != model.config.placeholder_ids["image"]]}
    bare["attention_mask"] = torch.ones_like(bare["input_ids"])
    assert not torch.allclose(model(**bare).logits[0, -5:], model(**loose).logits[0, -5:], atol=1e-4)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **settings)[:, -4:], model.generate(**loose, **settings)[:, -4:])


@torch.no_grad()
def test_with_a_connector_that_reads_the_prompt():
    encoders = {
        "image": {**VIT, **NEITHER_DROPS, "connector": {"type": "q_former", "tokens": 2, "depth": 2, "reads": "text"}},
        "audio": LOG_MEL,
    }
    model, processor = assembled({"type": "early", "absent": "learned"}, "gpt2", encoders=encoders)
    alone = results(model, prepared(processor, [0], image=[None], audio=[sound(0)]))
    beside = results(model, prepared(processor, [0, 1], image=[None, picture(1)], audio=[sound(0), sound(1)]))
    same(alone, beside[:1])
    inputs = prepared(processor, [0, 1], image=[None, picture(1)], padding_side="left")
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(*(model.generate(**inputs, **settings, use_cache=cache) for cache in (True, False)))


def test_a_hybrid_says_it_once():
    parts = [{"type": "early", "inputs": ["audio"], "absent": "learned"}, {"type": "cross_attention", "inputs": ["image"]}]
    with pytest.raises(RecipeError, match=r"fusion.parts: write `absent` beside `parts`"):
        assembled({"type": "hybrid", "parts": parts}, "gpt2")
