"""What every connector promises."""

from __future__ import annotations

import pytest
import torch

from chiasm.components import find, names
from chiasm.types import Tokens

every_connector = pytest.mark.parametrize("name", names("connector"))


def connector(name):
    kind = find("connector", name)
    return kind(kind.Options(), 12, 20).eval()


def tokens(length=16):
    """Two units; the second has half of its tokens hidden."""
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, length // 2 :] = False
    side = round(length**0.5)
    return Tokens(torch.randn(2, length, 12), mask, item=torch.zeros(2, length, dtype=torch.long), grid=(side, side))


@every_connector
def test_shapes_are_as_announced(name):
    link, source = connector(name), tokens()
    result = link(source)
    assert result.values.shape == (2, link.num_tokens(16), link.width) == (*result.mask.shape, 20)
    assert result.mask.dtype == torch.bool and result.mask.any(1).all()
    assert result.item is None or result.item.shape == result.mask.shape
    assert torch.isfinite(result.values).all()


@every_connector
def test_every_parameter_gets_a_gradient(name):
    link = connector(name).train()
    values = link(tokens()).values
    (values * torch.randn_like(values)).sum().backward()
    for key, parameter in link.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, key


@every_connector
def test_garbage_in_masked_tokens_reaches_neither_output_nor_gradient(name):
    link, clean = connector(name), tokens()
    hidden = ~clean.mask.unsqueeze(-1)
    visible = link(clean)
    for garbage in (float("nan"), float("inf"), 1e30):
        link.zero_grad()
        result = link(Tokens(clean.values.masked_fill(hidden, garbage), clean.mask, item=clean.item, grid=clean.grid))
        assert torch.equal(result.values[result.mask], visible.values[visible.mask])
        result.values[result.mask].square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in link.parameters())


@every_connector
@torch.no_grad()
def test_a_unit_does_not_depend_on_its_batch(name):
    link, both = connector(name), tokens()
    alone = link(Tokens(both.values[1:], both.mask[1:], item=both.item[1:], grid=both.grid))
    torch.testing.assert_close(link(both).values[1:], alone.values)


@every_connector
@torch.no_grad()
def test_weights_are_all_there_is_to_save(name):
    link, again, source = connector(name), connector(name), tokens()
    again.load_state_dict(link.state_dict())
    assert torch.equal(link(source).values, again(source).values)
    assert torch.equal(link(source).values, link(source).values)
