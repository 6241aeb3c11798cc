"""alpha_gated against its formula written out: h_T <- a MHA(h_T, h_I) + (1 - a) h_T, or MHA(h_T, h_I) + (1 - a)(h_T + align(h_I))."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasm.fusion.alpha_gated import AlphaGated
from chiasm.fusion.attention import Attention
from chiasm.fusion.base import BackboneShape, StreamShape
from chiasm.types import Step, Tokens

WIDTH, HEADS = 24, 4
ALIGNS = ("pool", "attention", "interpolate", "resample")
FORMS = [("convex", "pool"), *(("printed", align) for align in ALIGNS)]
every_form = pytest.mark.parametrize(("form", "align"), FORMS)
every_length = pytest.mark.parametrize(("n", "m"), [(6, 6), (7, 4), (3, 8), (1, 5), (5, 1)])
close = {"rtol": 1e-5, "atol": 1e-5}


def fusion_of(form: str, align: str, *, alpha: float, layers: int = 1) -> AlphaGated:
    """The literal formula (no layer norms) with spread-out weights and every alpha set to `alpha`."""
    options = AlphaGated.Options(form=form, align=align, norm=False, positions="none")
    shape = BackboneShape(width=WIDTH, num_layers=layers, num_heads=HEADS, causal=False)
    fusion = AlphaGated(options, shape, {"image": StreamShape(None, True)}).eval()
    for name, parameter in fusion.named_parameters():
        nn.init.constant_(parameter, logit(alpha)) if name.endswith("raw") else nn.init.normal_(parameter, std=0.3)
    return fusion


def logit(alpha: float) -> float:
    return {0.0: -200.0, 1.0: 200.0}.get(alpha) or math.log(alpha / (1 - alpha))


def multihead(ours: Attention) -> nn.MultiheadAttention:
    """torch's attention with our weights."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(WIDTH), ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs


def reference(read, h_t: Tensor, h_i: Tensor, alpha: float, form: str, align: str) -> Tensor:
    """The formula, literally."""
    mha, weights = multihead(read.attention)(h_t, h_i, h_i)
    aligned = {
        "pool": lambda: h_i.mean(1, keepdim=True),
        "attention": lambda: weights @ h_i,
        "interpolate": lambda: functional.interpolate(h_i.mT, size=h_t.shape[1], mode="linear", align_corners=True).mT,
        "resample": lambda: multihead(read.resampler)(h_t, h_i, h_i)[0],
    }[align]
    return alpha * mha + (1 - alpha) * h_t if form == "convex" else mha + (1 - alpha) * (h_t + aligned())


def met(fusion: AlphaGated, h_t: Tensor, h_i: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
    """Both sides after one layer."""
    text, image = (Tokens(h, torch.ones(h.shape[:2], dtype=torch.bool)) for h in (h_t, h_i))
    text, streams = fusion.between(layer, text, fusion.place({"image": image}), Step(text.mask))
    return text.values, streams["image"].values


@every_form
@every_length
def test_it_is_the_formula_at_any_lengths(form, align, n, m):
    fusion = fusion_of(form, align, alpha=0.3, layers=2)
    h_t, h_i = torch.randn(2, n, WIDTH), torch.randn(2, m, WIDTH)
    text, image = met(fusion, h_t, h_i)
    block = fusion.blocks[0]
    torch.testing.assert_close(text, reference(block["text<-image"], h_t, h_i, 0.3, form, align), **close)
    torch.testing.assert_close(image, reference(block["image<-text"], h_i, h_t, 0.3, form, align), **close)


@every_length
def test_alpha_1_of_the_convex_form_is_cross_attention_to_the_bit(n, m):
    fusion = fusion_of("convex", "pool", alpha=1.0)
    h_t, h_i = torch.randn(2, n, WIDTH), torch.randn(2, m, WIDTH)
    source = Tokens(h_i, torch.ones(2, m, dtype=torch.bool))
    plain = fusion.blocks[0]["text<-image"].attention(h_t, [(source, h_i)], Step(torch.ones(2, n, dtype=torch.bool)))
    assert torch.equal(met(fusion, h_t, h_i)[0], plain)


@pytest.mark.parametrize("align", ALIGNS)
def test_alpha_0_of_the_printed_form_is_attention_plus_both(align):
    fusion = fusion_of("printed", align, alpha=0.0)
    h_t, h_i = torch.randn(2, 6, WIDTH), torch.randn(2, 4, WIDTH)
    read = fusion.blocks[0]["text<-image"]
    mha, none = multihead(read.attention)(h_t, h_i, h_i)[0], reference(read, h_t, h_i, 1.0, "printed", align)
    torch.testing.assert_close(none, mha)
    both = h_t + (reference(read, h_t, h_i, 0.0, "printed", align) - mha - h_t)
    torch.testing.assert_close(met(fusion, h_t, h_i)[0], mha + both, **close)
    if align == "pool":
        torch.testing.assert_close(met(fusion, h_t, h_i)[0], mha + h_t + h_i.mean(1, keepdim=True), **close)


@pytest.mark.parametrize("align", ALIGNS)
def test_the_slope_of_the_printed_form_in_alpha(align):
    """d h / d alpha = -(h_T + align(h_I)), by finite differences in float64."""
    fusion = fusion_of("printed", align, alpha=0.4).double()
    h_t, h_i = torch.randn(2, 5, WIDTH).double(), torch.randn(2, 5, WIDTH).double()
    read, step = fusion.blocks[0]["text<-image"], 1e-6

    def at(alpha: float) -> Tensor:
        nn.init.constant_(read.raw, logit(alpha))
        return met(fusion, h_t, h_i)[0]

    target, source = (Tokens(h, torch.ones(2, 5, dtype=torch.bool)) for h in (h_t, h_i))
    slope = (at(0.4 + step) - at(0.4 - step)) / (2 * step)
    torch.testing.assert_close(slope, -(h_t + read.aligned(target, source, Step(target.mask))), rtol=1e-5, atol=1e-6)
    if align == "interpolate":  # of equal lengths, where nothing is to be aligned
        torch.testing.assert_close(slope, -(h_t + h_i), rtol=1e-5, atol=1e-6)


@every_form
def test_several_streams_are_averaged_over_those_present(form, align):
    options = AlphaGated.Options(form=form, align=align, norm=False, positions="none")
    shape = BackboneShape(width=WIDTH, num_layers=1, num_heads=HEADS, causal=False)
    fusion = AlphaGated(options, shape, dict.fromkeys("ab", StreamShape(None, True))).eval()
    h_t, h_a, h_b = torch.randn(2, 5, WIDTH), torch.randn(2, 3, WIDTH), torch.randn(2, 4, WIDTH)
    seen = torch.ones(2, 5, dtype=torch.bool)
    here = torch.tensor([[True], [False]])
    streams = {"a": Tokens(h_a, torch.ones(2, 3, dtype=torch.bool)), "b": Tokens(h_b, here.expand(2, 4))}  # row 1 has no b
    text = fusion.between(0, Tokens(h_t, seen), fusion.place(streams), Step(seen))[0].values
    a, b = (reference(fusion.blocks[0][f"text<-{n}"], h_t, h, 0.1, form, align) for n, h in (("a", h_a), ("b", h_b)))
    torch.testing.assert_close(text[0], (a[0] + b[0]) / 2, **close)
    torch.testing.assert_close(text[1], a[1], **close)
