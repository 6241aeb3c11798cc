"""Our attention computes what torch's and transformers' own attentions compute, on copied weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from chiasm.fusion.attention import Attention, Reader
from chiasm.types import Step, Tokens

WIDTH, HEADS = 24, 4
close = {"rtol": 1e-5, "atol": 1e-5}


def tokens(*shape: int, lengths: tuple[int, ...]) -> Tokens:
    """Random tokens, of which each row's first `lengths` are visible."""
    mask = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)
    return Tokens(torch.randn(*shape), mask)


def alone(x: Tensor) -> Step:
    return Step(torch.ones(x.shape[:2], dtype=torch.bool))


def torchs(ours: Attention) -> nn.MultiheadAttention:
    """torch's attention with our weights; its key bias, which we do not have, is random: it cancels in the softmax."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.randn(WIDTH), ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs


@pytest.fixture
def attention() -> Attention:
    made = Attention(WIDTH, HEADS).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def test_attention_is_torchs(attention):
    x, source = torch.randn(3, 7, WIDTH), tokens(3, 5, WIDTH, lengths=(5, 2, 1))
    wanted, weights = torchs(attention)(x, source.values, source.values, key_padding_mask=~source.mask, average_attn_weights=False)
    step = alone(x)
    torch.testing.assert_close(attention(x, [(source, source.values)], step), wanted, **close)
    step.trace = {}
    torch.testing.assert_close(attention(x, [(source, source.values)], step), wanted, **close)
    torch.testing.assert_close(step.trace["attention0"], weights, **close)


def test_several_sources_are_one_softmax_over_all_of_them(attention):
    x, a, b = torch.randn(2, 4, WIDTH), tokens(2, 5, WIDTH, lengths=(5, 3)), tokens(2, 3, WIDTH, lengths=(1, 3))
    both, hidden = torch.cat([a.values, b.values], 1), torch.cat([~a.mask, ~b.mask], 1)
    wanted, _ = torchs(attention)(x, both, both, key_padding_mask=hidden)
    torch.testing.assert_close(attention(x, [(a, a.values), (b, b.values)], alone(x)), wanted, **close)


def test_edges_and_their_scores_are_torchs_mask(attention):
    x, source = torch.randn(2, 4, WIDTH), tokens(2, 6, WIDTH, lengths=(6, 6))
    allowed, bias = torch.rand(2, 4, 6) < 0.5, torch.randn(HEADS, 6)
    allowed[:, :, 0] = True
    added = bias[None, :, None].expand(2, -1, 4, -1).masked_fill(~allowed.unsqueeze(1), -torch.inf)
    wanted, _ = torchs(attention)(x, source.values, source.values, attn_mask=added.flatten(0, 1))
    torch.testing.assert_close(attention(x, [(source, source.values)], alone(x), allowed=allowed, bias=bias), wanted, **close)


def test_a_reader_is_a_residual_around_torchs(attention):
    x, source = torch.randn(2, 4, WIDTH), tokens(2, 5, WIDTH, lengths=(5, 2))
    reader = Reader(WIDTH, attention, ["image"], feed_forward=2).eval()
    for name, parameter in reader.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter)
    normed, forward = reader.norm_sources["image"](source.values), reader.feed_forward
    after = x + torchs(attention)(reader.norm(x), normed, normed, key_padding_mask=~source.mask)[0]
    wanted = after + forward.layers(forward.norm(after))
    torch.testing.assert_close(reader(x, {"image": source}, alone(x)), wanted, **close)


def test_attention_is_gpt2s_cross_attention(attention):
    config = GPT2Config(n_embd=WIDTH, n_head=HEADS, attn_pdrop=0.0, resid_pdrop=0.0, attn_implementation="eager")
    theirs = GPT2Attention(config, is_cross_attention=True, layer_idx=0).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    copy_gpt2(theirs, attention)
    x, source = torch.randn(3, 7, WIDTH), tokens(3, 5, WIDTH, lengths=(5, 2, 1))
    hidden = torch.zeros(3, 1, 1, 5).masked_fill(~source.mask[:, None, None], torch.finfo(torch.float32).min)
    wanted, _ = theirs(x, encoder_hidden_states=source.values, encoder_attention_mask=hidden)
    torch.testing.assert_close(attention(x, [(source, source.values)], alone(x)), wanted, **close)


def copy_gpt2(theirs: GPT2Attention, ours: Attention) -> None:
    """GPT-2's cross-attention weights [in, out] into ours [out, in]; its key bias cancels in the softmax."""
    key, value = theirs.c_attn.weight.chunk(2, 1)
    with torch.no_grad():
        for layer, weight, bias in (
            (ours.query, theirs.q_attn.weight, theirs.q_attn.bias),
            (ours.key, key, None),
            (ours.value, value, theirs.c_attn.bias.chunk(2)[1]),
            (ours.output, theirs.c_proj.weight, theirs.c_proj.bias),
        ):
            layer.weight.copy_(weight.T)
            if bias is not None:
                layer.bias.copy_(bias)
