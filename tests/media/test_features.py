"""The features modality: shapes, finite values, standardising, and state that travels as JSON."""

import json

import numpy as np
import pytest
import torch

from chiasm.media.features import Features
from chiasm.types import BadInput, RecipeError


def gate(**options):
    return Features(Features.Options(**options))


def reason(value, **options):
    with pytest.raises(BadInput) as error:
        gate(**options).open(value)
    return error.value.reason


def test_what_is_accepted():
    nested = np.empty(2, dtype=object)
    nested[:] = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    for value in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), nested, ((1.0, 2.0), (3.0, 4.0))):
        vectors, notes = gate().open(value)
        assert vectors.tolist() == [[1, 2], [3, 4]] and vectors.dtype == np.float32 and notes == ()
    assert gate().open([1, 2, 3])[0].shape == (1, 3)
    assert gate(width=2).open(np.array([1, 2, 3, 4], "<f4").tobytes())[0].tolist() == [[1, 2], [3, 4]]


def test_what_is_refused():
    assert reason([1.0, float("nan")]) == reason([float("inf")]) == "nonfinite"
    for value in ([], [[]], [[1, 2], [3]], [["a"]], np.zeros((1, 2, 3)), [1, None]):
        assert reason(value) in {"bad_shape", "nonfinite"}
    assert reason([1, 2, 3], width=2) == reason(b"1234567", width=2) == reason(b"12345678") == "bad_shape"
    assert reason("1 2 3") == reason(None) == reason(3.0) == "bad_type"


def test_long_sequences_are_cut_and_noted():
    vectors, notes = gate(max_length=3).open(np.zeros((5, 2)))
    assert vectors.shape == (3, 2) and notes == ("cut to length",)


def test_fit_standardises_and_padding_is_masked():
    features, generator = gate(), np.random.default_rng(0)
    values = [generator.normal([5, -3], [2, 0.5], (length, 2)) for length in (200, 300)] + [[1, 2, 3]]
    features.fit([*values[:2], "not a vector"])
    assert features.width == 2
    with pytest.raises(BadInput):
        features.open(values[2])
    found = features.collate([features.open(value)[0] for value in values[:2]])
    assert found["features"].shape == (2, 300, 2) and found["features_mask"].sum(1).tolist() == [200, 300]
    visible = found["features"][found["features_mask"]]
    assert visible.mean(0).abs().max() < 1e-4 and (visible.std(0) - 1).abs().max() < 0.01
    assert (found["features"][0, 200:] == 0).all()


def test_constant_dimension_and_no_normalising():
    features = gate()
    features.fit([[7.0, 1.0], [7.0, 2.0]])
    assert torch.isfinite(features.collate([features.open([7.0, 1.0])[0]])["features"]).all()
    plain = gate(normalise=False)
    plain.fit([[7.0, 1.0]])
    assert plain.collate([plain.open([7.0, 1.0])[0]])["features"].tolist() == [[[7.0, 1.0]]]


def test_state_is_json_and_restores_all():
    features, copy = gate(), gate()
    features.fit([[1, 2], [3, 5]])
    copy.load_state(json.loads(json.dumps(features.state())))
    value, _ = copy.open([2, 2])
    assert copy.width == 2 and torch.equal(features.collate([value])["features"], copy.collate([value])["features"])
    with pytest.raises(RecipeError):
        gate().fit(["nothing"])
