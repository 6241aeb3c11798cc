"""see: last - a text token reads the picture whose place stands last before it, in training, in one pass and token by token."""

from __future__ import annotations

import copy
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import GPT2, assembled, picture, routed

from chiasm.fusion.interleaving import spans
from chiasm.types import RecipeError

KINDS = ("gated_cross_attention", "cross_attention")
every_kind = pytest.mark.parametrize("kind", KINDS)
ONE_LAYER = {**GPT2, "n_layer": 1, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tokenizer": "words"}
TEXT = "yes <image> is a red cat <image> what is this"


@lru_cache
def built(kind, layers=1):
    """A model of few layers with open gates. In one layer what a token reads of a picture reaches later tokens by self-attention only."""
    backbone = {**ONE_LAYER, "n_layer": layers}
    model, processor = assembled({"type": kind, "see": "last"}, "gpt2", backbone=backbone)
    with torch.no_grad():
        for gate in model.fusion.gates():
            gate.fill_(0.7)
    return model, processor


def prepared(processor, *pictures, text=TEXT):
    return processor(text=[text], images=[list(pictures)])


def read(model, inputs):
    """[T, W] what the fusion's hook gives each token of the text ahead of the first layer."""
    found = []
    hook = model.model.backbone.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: found.append((args[0] if args else kwargs["hidden_states"])[0].detach()), with_kwargs=True
    )
    with torch.no_grad():
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], streams=routed(model, inputs))
    hook.remove()
    return found[0]


def test_spans_of_a_text():
    """Two pictures given together are one place; a row without a marker sees all."""
    markers = torch.tensor([[0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]]).bool()
    first, last = spans(markers)
    assert first[0].tolist() == [-1, 0, 0, 0, 0, 2, 2] and last[0].tolist() == [-1, 0, 1, 1, 1, 2, 2]
    assert first[1].eq(0).all() and last[1].gt(10**6).all()


@every_kind
def test_a_token_reads_the_picture_before_it_only(kind):
    model, processor = built(kind)
    marker = processor.placeholder_id("image")
    one, two = (int(i) for i in (prepared(processor, picture(0), picture(1))["input_ids"][0] == marker).nonzero())
    base = read(model, prepared(processor, picture(0), picture(1)))
    first, second = (
        (read(model, prepared(processor, *pair)) - base).abs().amax(1) for pair in ((picture(2), picture(1)), (picture(0), picture(3)))
    )
    assert (first[:one] == 0).all() and (first[one:two] > 0).all() and (first[two:] == 0).all()
    assert (second[:two] == 0).all() and (second[two:] > 0).all()


@every_kind
def test_see_all_reads_both(kind):
    model, processor = assembled({"type": kind}, "gpt2", backbone=ONE_LAYER)
    with torch.no_grad():
        for gate in model.fusion.gates():
            gate.fill_(0.7)
    assert processor.placeholder_counts == {} and not model.config.marker_ids
    text = "yes is a red cat what is this"
    pairs = (picture(0), picture(1)), (picture(2), picture(1)), (picture(0), picture(3))
    base, first, second = (read(model, prepared(processor, *pair, text=text)) for pair in pairs)
    assert ((first - base).abs().amax(1) > 0).all() and ((second - base).abs().amax(1) > 0).all()


@every_kind
def test_a_picture_without_a_place_is_seen_by_all_that_follows(kind):
    """The processor puts its marker in front; token ids without any marker see everything."""
    model, processor = built(kind)
    first, second = (read(model, prepared(processor, picture(n), text="is a red cat")) for n in (2, 3))
    changed = (first - second).abs()
    begun = len(processor.start_ids)
    assert (changed.amax(1)[begun:] > 0).all()
    inputs = [prepared(processor, picture(n), text="is a red cat") for n in (2, 3)]
    for given in inputs:
        keep = given["input_ids"][0] != processor.placeholder_id("image")
        given["input_ids"], given["attention_mask"] = given["input_ids"][:, keep], given["attention_mask"][:, keep]
    assert ((read(model, inputs[0]) - read(model, inputs[1])).abs().amax(1) > 0).all()


@every_kind
@torch.no_grad()
def test_token_by_token_is_the_whole_text(kind):
    """FU15 with several pictures: the prompt holds both places, the answer is written with the cache."""
    model, processor = built(kind, layers=2)
    inputs = prepared(processor, picture(0), picture(1))
    ids, prompt = inputs["input_ids"], inputs["input_ids"].shape[1]
    more = torch.tensor([processor.encode([" a blue dog"], user=True)[0]])
    whole = torch.cat([ids, more], 1)
    lengths = torch.tensor([prompt])
    full = model(input_ids=whole, streams=routed(model, inputs), prompt_lengths=lengths).logits
    streams = routed(model, inputs)
    output = model(input_ids=ids, streams=streams, use_cache=True, prompt_lengths=lengths)
    found = [output.logits[:, -1]]
    for place in range(more.shape[1]):
        seen = torch.ones(1, prompt + place + 1)
        output = model(
            input_ids=more[:, place : place + 1],
            attention_mask=seen,
            streams=streams,
            past_key_values=output.past_key_values,
            use_cache=True,
            prompt_lengths=lengths,
        )
        found.append(output.logits[:, -1])
    assert torch.allclose(torch.stack(found, 1), full[:, prompt - 1 :], atol=1e-5)
    written = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, prompt:]
    assert not set(written.flatten().tolist()) & {*model.config.marker_ids.values()}
    other = copy.copy(inputs)
    other["pixel_values"] = inputs["pixel_values"].flip(0)
    assert not torch.allclose(model(input_ids=whole, streams=routed(model, other), prompt_lengths=lengths).logits, full)


def test_beams_keep_their_places():
    model, processor = built("gated_cross_attention", layers=2)
    inputs = processor(text=[TEXT, "<image> is this a red cat"], images=[[picture(0), picture(1)], [picture(2)]])
    both = model.generate(**inputs, max_new_tokens=3, num_beams=2, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    for row, (text, images) in enumerate(((TEXT, [picture(0), picture(1)]), ("<image> is this a red cat", [picture(2)]))):
        alone = processor(text=[text], images=[images])
        said = model.generate(**alone, max_new_tokens=3, num_beams=2, do_sample=False)[0, alone["input_ids"].shape[1] :].tolist()
        assert both[row].tolist()[: len(said)] == said


def test_what_cannot_see_the_last_place_only():
    with pytest.raises(RecipeError, match=r"fusion.see: .* use weights: own"):
        assembled({"type": "cross_attention", "weights": "backbone", "see": "last"}, "gpt2")
    with pytest.raises(RecipeError, match=r"fusion.see: .* backbone.side: encoder"):
        assembled({"type": "gated_cross_attention", "see": "last"}, "t5")
    both = {"type": "hybrid", "parts": [{"type": "early"}, {"type": "cross_attention", "see": "last"}]}
    with pytest.raises(RecipeError, match="'image' enters the text, so its places cannot be marked too"):
        assembled(both, "gpt2")
