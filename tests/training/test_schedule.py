"""The learning rate is a pure function of how much is done."""

import pytest

from chiasm.training.schedule import learning_rate


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warms_up_then_never_rises(kind):
    rates = [learning_rate((s + 0.5) / 100, peak=2.0, warmup=0.1, kind=kind) for s in range(100)]
    assert 0 < rates[0] < rates[9] < rates[10] <= 2.0
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] == 2.0 if kind == "constant" else 0 < rates[-1] < 0.03


def test_edges():
    assert learning_rate(0.5, peak=1.0, warmup=1.0, kind="cosine") == 0.5
    assert learning_rate(0.0, peak=1.0, warmup=0.0, kind="linear") == 1.0
    assert learning_rate(3.0, peak=1.0, warmup=0.1, kind="linear") == 0.0
