"""EMAP against a literal implementation, and on functions whose projection is known."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.compare.additive import MOST_PASSES, additive, items_for


def answerer(function, *columns):
    """A model of one number per input: column m of item i is input m's value there."""

    def answer(asked, sources):
        taken = [np.array(sources.get(f"x{m}", asked), dtype=int) for m in range(len(columns))]
        return np.asarray(function(*(column[places] for column, places in zip(columns, taken, strict=True))), float).reshape(len(asked), -1)

    return answer


def test_it_equals_a_literal_implementation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=12), rng.normal(size=12)

    def model(x, y):
        return np.stack([np.tanh(x * y), x + np.sin(3 * y)], -1)

    found = additive(answerer(model, a, b), ["x0", "x1"], 12)
    literal = []
    for i in range(12):
        first = np.mean([model(a[i], b[j]) for j in range(12)], 0)
        second = np.mean([model(a[j], b[i]) for j in range(12)], 0)
        overall = np.mean([model(a[j], b[k]) for j in range(12) for k in range(12)], 0)
        literal.append(first + second - overall)
    np.testing.assert_allclose(found, literal, atol=1e-12)


@pytest.mark.parametrize("inputs", [2, 3, 4])
def test_a_sum_is_its_own_projection(inputs):
    columns = np.random.default_rng(1).normal(size=(inputs, 9))
    found = additive(answerer(lambda *x: sum(np.exp(v) for v in x), *columns), [f"x{m}" for m in range(inputs)], 9)
    np.testing.assert_allclose(found[:, 0], np.exp(columns).sum(0), atol=1e-9)


def test_nothing_of_an_exclusive_or_is_additive():
    a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    found = additive(answerer(lambda x, y: x ^ y, a, b), ["x0", "x1"], 4)
    np.testing.assert_allclose(found, 0.5)


def test_passes_are_limited():
    assert items_for(2, 1000) == 100 and items_for(2, 30) == 30
    for inputs in (2, 3, 5):
        assert items_for(inputs, 1000) ** 2 * (1 if inputs == 2 else inputs) <= MOST_PASSES
