"""What every kind of backbone promises, on tiny fresh networks of several architectures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import BACKBONES, DECODER

from chiasm.backbones.base import layer_list
from chiasm.components import find, names
from chiasm.recipe_check import backbone_kind
from chiasm.types import RecipeError, Tokens

HEADS = {"t5": transformers.T5ForSequenceClassification, "bart": transformers.BartForSequenceClassification}
MINI = {"vocab_size": 50, "max_position_embeddings": 64}
OPT = {
    "arch": "opt",
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "dropout": 0.0,
    "word_embed_proj_dim": 32,
}
ROBERTA = {**BACKBONES["bert"], "arch": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}
CLIP = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
LLAVA = {
    "arch": "llava",
    "text_config": {"model_type": "llama", **DECODER, **MINI},
    "vision_config": {"model_type": "clip_vision_model", **CLIP},
}
ARCHITECTURES = {
    **BACKBONES,
    "opt": OPT,
    "roberta": ROBERTA,
    "llava": LLAVA,
    "gemma": {**BACKBONES["llama"], "arch": "gemma2", "tie_word_embeddings": True},
}


def kind_of(name):
    spec = ARCHITECTURES[name]
    return spec.get("kind") or backbone_kind(AutoConfig.for_model(spec["arch"]))


TWO_HALVES = [name for name in ARCHITECTURES if kind_of(name) == "encoder_decoder"]
every_architecture = pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in TWO_HALVES])
every_encoder_decoder = pytest.mark.parametrize("name", TWO_HALVES)


def backbone(name):
    kind = find("backbone", kind_of(name))
    given = {k: v for k, v in ARCHITECTURES[name].items() if k not in ("tokenizer", "kind", "arch")}
    options = kind.Options(**{k: given.pop(k) for k in kind.Options.model_fields if k in given})
    starts = {"decoder_start_token_id": 0} if kind.has_encoder else {}
    config = AutoConfig.for_model(ARCHITECTURES[name]["arch"], **{**MINI, **starts, **given})
    kind.check(config)
    return kind(options, kind.build(options, config).eval())


def embedded(found, rows=2):
    values = found.embed(torch.randint(3, 50, (rows, 7)), rows)
    if not found.reads_text:  # latents, and room for what a fusion puts behind them
        values = torch.cat([values[:, :3], torch.randn_like(values[:, 3:])], 1)
    mask = torch.ones(values.shape[:2], dtype=torch.bool)
    mask[1, -2:] = False
    return values, mask


def test_every_kind_is_tried():
    assert {kind_of(name) for name in ARCHITECTURES} == set(names("backbone"))


@every_architecture
def test_shapes_gradients_and_pooling(name):
    found = backbone(name)
    values, mask = embedded(found)
    output = found.run(values, mask, None).last_hidden_state
    width = found.network.get_input_embeddings().weight.shape[1]
    assert output.shape == values.shape == (*mask.shape, width)
    pooled = found.pool(Tokens(output, mask))
    assert pooled.shape == (2, width) and torch.isfinite(pooled).all()
    (output * torch.randn_like(output)).sum().backward()
    dead = [n for n, p in found.stack.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    unused = ("word_embeddings.weight", "token_type_embeddings.weight") if not found.reads_text else ()
    assert [n for n in dead if not n.endswith(("key.bias", "k_proj.bias", *unused))] == []


@every_architecture
def test_its_layers_are_called_in_order(name):
    found = backbone(name)
    assert len(found.layers) == 2
    called = []
    for number, layer in enumerate(found.layers):
        layer.register_forward_pre_hook(lambda module, args, number=number: called.append(number))
    found.run(*embedded(found), None)
    assert called == [0, 1]
    assert layer_list(found.network, 2) is found.layers


@every_architecture
@torch.no_grad()
def test_rows_padding_and_what_is_hidden_do_not_matter(name):
    found = backbone(name)
    values, mask = embedded(found)
    whole = found.run(values, mask, None).last_hidden_state
    alone = found.run(values[1:, :-2], mask[1:, :-2], None).last_hidden_state
    torch.testing.assert_close(whole[1:, :-2], alone, rtol=1e-4, atol=1e-5)
    changed = values.clone()
    changed[1, -2:] = 100.0
    again = found.run(changed, mask, None).last_hidden_state
    torch.testing.assert_close(again[mask], whole[mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pool(Tokens(again, mask)), found.pool(Tokens(whole, mask)), rtol=1e-4, atol=1e-5)


@every_architecture
@torch.no_grad()
def test_causal_means_that_the_future_is_not_seen(name):
    found = backbone(name)
    values, mask = embedded(found)
    changed = values.clone()
    changed[0, -1] += 1.0
    before, after = (found.run(v, mask, None).last_hidden_state[0, 0] for v in (values, changed))
    assert torch.equal(before, after) == found.causal
    assert not found.generates or found.causal


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if kind_of(name) == "causal"])
@torch.no_grad()
def test_left_padding_does_not_matter_to_a_causal_backbone(name):
    found = backbone(name)
    values, mask = embedded(found, rows=2)
    left = torch.cat([torch.zeros_like(values[:, :3]), values], 1), torch.cat([torch.zeros_like(mask[:, :3]), mask], 1)
    output = found.run(*left, None).last_hidden_state[:, 3:]
    torch.testing.assert_close(output[mask], found.run(values, mask, None).last_hidden_state[mask], rtol=1e-4, atol=1e-5)


@every_architecture
@torch.no_grad()
def test_weights_are_all_there_is_to_save(name):
    found, again = backbone(name), backbone(name)
    again.network.load_state_dict(found.network.state_dict())
    torch.manual_seed(0)
    inputs = embedded(found)
    assert torch.equal(found.run(*inputs, None).last_hidden_state, again.run(*inputs, None).last_hidden_state)


# ---- an encoder that reads, a decoder that writes


def texts():
    """(ids [3, 7], mask): the second text is shorter, the third shorter still."""
    ids = torch.randint(4, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(7) < torch.tensor([[7], [5], [2]])


@every_encoder_decoder
def test_both_halves_run_and_learn(name):
    found = backbone(name)
    ids, mask = texts()
    read = found.read(ids, mask)
    assert read.values.shape == (3, 7, 32) and torch.equal(read.mask, mask)
    pooled = found.pool(read)
    assert pooled.shape == (3, 32) and torch.equal(pooled[1], read.values[1, 4])
    (read.values * torch.randn_like(read.values)).sum().backward()
    dead = [n for n, p in found.stack.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [n for n in dead if not n.endswith("k_proj.bias")] == []


@every_encoder_decoder
def test_only_the_named_half_is_met(name):
    found = backbone(name)
    whole = [module for half in (found.encoder, found.decoder) for module in half.modules() if "Layer" in type(module).__name__]
    assert len(whole) > 4
    called = []
    for number, layer in enumerate(found.layers):
        layer.register_forward_pre_hook(lambda module, args, number=number: called.append(number))
    found.listen(found.embed(*[texts()[0]], 3), texts()[1])
    assert called == (list(range(len(found.layers))) if found.options.side == "encoder" else [])
    found.read(*texts())
    assert called[-len(found.layers) :] == list(range(len(found.layers)))
    assert len(found.layers) == found.sizes.num_hidden_layers
    assert bool(found.cross_attentions) == found.one_way == (found.options.side == "decoder")


@every_encoder_decoder
@torch.no_grad()
def test_a_text_does_not_depend_on_its_batch(name):
    found = backbone(name)
    ids, mask = texts()
    whole = found.read(ids, mask).values
    for row, length in enumerate((7, 5, 2)):
        alone = found.read(ids[row : row + 1, :length], mask[row : row + 1, :length]).values
        torch.testing.assert_close(whole[row : row + 1, :length], alone, rtol=1e-4, atol=1e-5)
    changed = ids.masked_fill(~mask, 3)
    torch.testing.assert_close(found.read(changed, mask).values[mask], whole[mask], rtol=1e-4, atol=1e-5)


@every_encoder_decoder
@torch.no_grad()
def test_the_encoder_reads_both_ways_and_the_decoder_only_back(name):
    found = backbone(name)
    ids, mask = texts()
    changed = ids.clone()
    changed[0, -1] = 3
    heard = found.listen(found.embed(ids, 3), mask).last_hidden_state
    assert not torch.allclose(heard[0, 0], found.listen(found.embed(changed, 3), mask).last_hidden_state[0, 0])
    memory = Tokens(heard, mask)
    before, after = (found.write(written, mask, memory).last_hidden_state for written in (ids, changed))
    assert torch.equal(before[0, :-1], after[0, :-1]) and not torch.allclose(before[0, -1], after[0, -1])


@every_encoder_decoder
@torch.no_grad()
def test_pooling_is_that_of_the_architectures_own_classifier(name):
    found = backbone(name)
    classifier = HEADS[ARCHITECTURES[name]["arch"]](found.network.config).eval()
    classifier.classification_head = nn.Identity()
    base = classifier.transformer if hasattr(classifier, "transformer") else classifier.model
    base.load_state_dict(found.network.state_dict())
    end = found.network.config.eos_token_id
    ids, mask = texts()
    ids = torch.where(ids == end, 7, ids)
    for row, length in enumerate((7, 5, 2)):
        ids[row, length - 1] = end
    expected = classifier(input_ids=ids.masked_fill(~mask, 0), attention_mask=mask.long()).logits
    torch.testing.assert_close(found.pool(found.read(ids, mask)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_the_spread_of_words_is_that_of_the_words_in_use(tied):
    """Where they are not tied, a BART has three tables, and the one that it calls its own is not read."""
    kind = find("backbone", "encoder_decoder")
    settings = {key: value for key, value in BACKBONES["bart"].items() if key not in ("arch", "tokenizer")}
    config = AutoConfig.for_model("bart", **MINI | settings, tie_word_embeddings=tied, decoder_start_token_id=0)
    options = kind.Options(embedding_std=0.02)
    found = kind(options, kind.build(options, config))
    for half in (found.encoder, found.decoder):
        words = half.get_input_embeddings().weight
        assert (words is found.network.shared.weight) == tied
        assert 0.015 < words.detach().std() < 0.025


@pytest.mark.parametrize(
    ("kind", "arch", "why"),
    [
        ("causal", "t5", "backbone.kind: t5 has an encoder and a decoder"),
        ("bidirectional", "bart", "backbone.kind: bart has an encoder and a decoder"),
        ("encoder_decoder", "gpt2", "backbone.kind: gpt2 has no encoder and decoder of its own"),
        ("encoder_decoder", "whisper", "whisper: not a text-to-text model of the usual build; use e.g. t5"),
        ("encoder_decoder", "led", "led: not a text-to-text model of the usual build"),
        ("encoder_decoder", "prophetnet", "prophetnet: not a text-to-text model of the usual build"),
        ("encoder_decoder", "t5gemma", "t5gemma: not a text-to-text model of the usual build"),
    ],
)
def test_a_kind_that_an_architecture_is_not_is_refused(kind, arch, why):
    with pytest.raises(RecipeError, match=why):
        find("backbone", kind).check(AutoConfig.for_model(arch))


@pytest.mark.parametrize("pool", ["first", "pooler", "last_word"])
def test_what_a_classifier_reads_of_a_bert(pool):
    ARCHITECTURES["pooling"] = {**BACKBONES["bert"], "pool": pool}
    try:
        found = backbone("pooling")
    finally:
        del ARCHITECTURES["pooling"]
    values = torch.randn(2, 7, 32)
    mask, words = torch.ones(2, 7, dtype=torch.bool), torch.zeros(2, 7, dtype=torch.bool)
    mask[0, 0], words[0, 1:4], words[1, :2] = False, True, True  # then a stream's tokens
    read = found.pool(Tokens(values, mask), words)
    if pool == "pooler":
        expected = found.network.pooler(torch.stack([values[0, 1], values[1, 0]]).unsqueeze(1))
    else:
        expected = torch.stack([values[0, 1], values[1, 0]] if pool == "first" else [values[0, 2], values[1, 0]])
    assert torch.equal(read, expected)
    read.sum().backward() if pool == "pooler" else None
    assert all(p.grad is not None for n, p in found.network.named_parameters() if n.startswith("pooler"))


def test_a_pooler_that_an_architecture_has_not_is_refused():
    config = AutoConfig.for_model("distilbert", **MINI)
    kind = find("backbone", "bidirectional")
    with pytest.raises(RecipeError, match="backbone.pool: distilbert has no pooler of its own; use pool: first, or mean"):
        kind.build(kind.Options(pool="pooler"), config)


def test_a_bert_that_sees_both_ways_does_not_generate():
    with pytest.raises(RecipeError, match="each token of bert sees all others; write is_decoder: true"):
        find("backbone", "causal").check(AutoConfig.for_model("bert"))
