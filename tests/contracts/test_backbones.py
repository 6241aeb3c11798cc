"""What every kind of backbone promises, on tiny fresh networks of several architectures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import BACKBONES

from chiasm.backbones.base import layer_list
from chiasm.components import find, names
from chiasm.types import Tokens

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
ARCHITECTURES = {
    **BACKBONES,
    "opt": OPT,
    "roberta": ROBERTA,
    "gemma": {**BACKBONES["llama"], "arch": "gemma2", "tie_word_embeddings": True},
}

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def backbone(name):
    spec = {k: v for k, v in ARCHITECTURES[name].items() if k not in ("tokenizer", "latents")}
    kind = find("backbone", spec.pop("kind", "causal"))
    options = kind.Options(latents=3) if "latents" in kind.Options.model_fields else kind.Options()
    config = AutoConfig.for_model(spec.pop("arch"), **{**MINI, **spec})
    return kind(options, kind.build(options, config).eval())


def embedded(found, rows=2):
    values = found.embed(torch.randint(3, 50, (rows, 7)), rows)
    if not found.reads_text:  # latents, and room for what a fusion puts behind them
        values = torch.cat([values[:, :3], torch.randn_like(values[:, 3:])], 1)
    mask = torch.ones(values.shape[:2], dtype=torch.bool)
    mask[1, -2:] = False
    return values, mask


def test_every_kind_is_tried():
    tried = {spec.get("kind", "causal") for spec in ARCHITECTURES.values()}
    assert tried == set(names("backbone"))


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
    dead = [n for n, p in found.network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
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
    assert layer_list(found.network) is found.layers


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


@pytest.mark.parametrize("name", [n for n, spec in ARCHITECTURES.items() if spec.get("kind", "causal") == "causal"])
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
