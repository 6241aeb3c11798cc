"""The built-in digits: the same every time, true to their labels, split by hands and voices, and each input worth what is claimed."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import log2

import numpy as np
import pytest

from chiasm.data.digits.variants import COLUMNS, PLACES, VARIANTS
from chiasm.data.digits.vectors import HANDWRITING, PIXELS, SPECTRUM, pictures, sounds
from chiasm.data.opening import open_source, split_names
from chiasm.data.scenes.draw import digits
from chiasm.data.sources.digits import Digits
from chiasm.recipe import DataSpec
from chiasm.types import RecipeError

SPLITS = Digits.splits
CLEAN = [variant for variant in VARIANTS if variant != "redundant"]  # whose vectors can be looked up


@cache
def known(split):
    """The bytes of a vector -> its digit, for every picture and clip of a split."""
    found = {}
    for vectors in (pictures(split), sounds(split)):
        found |= {vector.tobytes(): digit for digit, of_digit in enumerate(vectors) for vector in of_digit}
    return found


def rows(variant, split="train", count=600, **options):
    source = Digits(split, variant=variant, rows=count, **options)
    return [source.read(index).parts for index in range(count)]


def information(pairs):
    """Mutual information in bits of two discrete values, by counting, less what independent ones would show (Miller and Madow)."""
    pairs = list(pairs)
    both, first, second = Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    found = sum(n / len(pairs) * log2(n * len(pairs) / (first[a] * second[b])) for (a, b), n in both.items())
    return found - (len(first) - 1) * (len(second) - 1) / (2 * len(pairs) * np.log(2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_depends_on_variant_seed_split_and_number_only(variant):
    first, again = Digits("train", variant=variant), Digits("train", variant=variant, rows=40)
    for index in (39, 0, 17):
        a, b = first.read(index), again.read(index)
        assert a.id == b.id == f"train:{index}" and set(a.parts) == set(b.parts) == set(COLUMNS[variant])
        assert all(np.array_equal(a.parts[column], b.parts[column]) for column in a.parts)
    for other in (Digits("train", variant=variant, seed=1), Digits("test", variant=variant)):
        assert [first.read(i).parts["label"] for i in range(20)] != [other.read(i).parts["label"] for i in range(20)]


def test_rows_are_pinned():
    """So that a change of the data is noticed."""
    labels = {variant: [parts["label"] for parts in rows(variant, count=8)] for variant in VARIANTS}
    assert labels == {
        "redundant": [0, 4, 0, 1, 0, 1, 4, 2],
        "interaction": [7, 4, 9, 3, 8, 5, 3, 7],
        "unique": [9, 5, 3, 3, 2, 1, 9, 3],
        "match": [3, 0, 9, 4, 7, 1, 4, 7],
        "missing": [1, 7, 5, 7, 4, 2, 7, 1],
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("split", SPLITS)
def test_vectors_have_their_shape(variant, split):
    places = (PLACES,) if variant == "match" else ()
    for parts in rows(variant, split, 20):
        for name, shape in (("image", (*places, PIXELS)), ("audio", (SPECTRUM,))):
            if name in parts:
                assert parts[name].shape == shape and parts[name].dtype == np.float32 and np.isfinite(parts[name]).all()


def test_splits_share_no_handwriting_and_no_clip():
    used = [row for split in SPLITS for row in HANDWRITING[split]]
    assert sorted(used) == list(range(len(digits()[1])))
    for split, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not set(known(split)) & set(known(other))
    for split in SPLITS:
        assert all(len(of_digit) >= 2 for vectors in (pictures(split), sounds(split)) for of_digit in vectors)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("variant", CLEAN)
def test_labels_are_true_and_vectors_are_of_the_split(variant, split):
    look = known(split)
    for parts in rows(variant, split, 200):
        written = [look[vector.tobytes()] for vector in np.atleast_2d(parts["image"])] if "image" in parts else None
        spoken = [look[vector.tobytes()] for vector in np.atleast_2d(parts["audio"])] if "audio" in parts else None
        if variant == "match":
            assert len(set(written)) == PLACES and spoken == [parts["place"]] and written[parts["place"] - 1] == parts["label"]
            continue
        assert written in (None, [parts["image_digit"]]) and spoken in (None, [parts["audio_digit"]])
        assert parts["label"] == (parts["image_digit"] + (parts["audio_digit"] if variant == "interaction" else 0)) % 10
        assert (parts["image_digit"] == parts["audio_digit"]) or variant in ("interaction", "unique")


def test_redundant_is_both_times_the_label_under_noise_of_either_strength():
    look = {name: vectors("test") for name, vectors in (("image", pictures), ("audio", sounds))}
    spreads = {"image": [], "audio": []}
    for parts in rows("redundant", "test", 300):
        assert parts["image_digit"] == parts["audio_digit"] == parts["label"]
        for name, found in spreads.items():
            found.append(np.sqrt(np.square(look[name][parts["label"]] - parts[name]).mean(1).min()))  # to the nearest of its digit
    for found in spreads.values():
        strong = np.array(found) > np.sqrt(min(found) * max(found))
        assert 0.15 < strong.mean() < 0.35
    both = np.array([np.array(found) > np.sqrt(min(found) * max(found)) for found in spreads.values()])
    assert abs(np.corrcoef(both)[0, 1]) < 0.15, "the two noises are independent"


def test_what_each_input_says_about_the_label():
    """Mutual information in bits; a digit has log2(10) = 3.32."""
    whole = log2(10)
    for variant, image, audio in (("redundant", whole, whole), ("interaction", 0, 0), ("unique", whole, 0), ("missing", whole, whole)):
        found = rows(variant, count=4000)
        assert information((p["image_digit"], p["label"]) for p in found) == pytest.approx(image, abs=0.02), variant
        assert information((p["audio_digit"], p["label"]) for p in found) == pytest.approx(audio, abs=0.02), variant
    both = rows("interaction", count=4000)
    assert information(((p["image_digit"], p["audio_digit"]), p["label"]) for p in both) > 3


def test_match_tells_nothing_to_whoever_does_not_know_what_stands_where():
    found, look = rows("match", count=4000), known("train")
    written = [[look[vector.tobytes()] for vector in parts["image"]] for parts in found]
    assert information((parts["place"], parts["label"]) for parts in found) == pytest.approx(0, abs=0.02)
    guess = np.mean([max(seen) == parts["label"] for seen, parts in zip(written, found, strict=True)])
    assert guess == pytest.approx(1 / PLACES, abs=0.03), "of the written digits each is as likely"
    assert Counter(parts["place"] for parts in found).keys() == set(range(1, PLACES + 1))


def test_missing_lacks_one_input_by_turns_and_never_in_training():
    assert all({"image", "audio"} <= set(parts) for parts in rows("missing"))
    for split in ("validation", "test"):
        absent = [{"image", "audio"} - set(parts) for parts in rows("missing", split, 100)]
        assert absent == [{"audio"}, {"image"}] * 50


@pytest.mark.parametrize("variant", VARIANTS)
def test_labels_are_balanced(variant):
    counts = Counter(parts["label"] for parts in rows(variant, count=4000))
    assert set(counts) == set(range(10)) and max(counts.values()) / 4000 < 0.13


def test_a_recipe_names_the_variant():
    data = DataSpec(builtin="digits", variant="match", seed=3)
    assert split_names(data) == list(SPLITS)
    source = open_source(data, "test")
    assert isinstance(source, Digits) and (source.variant, source.seed, len(source)) == ("match", 3, 1000)
    assert source.origin(7) == ("test:7", "digits/match/test", 7) and set(source.columns) == set(source.read(0).parts)


def test_wrong_names_get_the_nearest():
    with pytest.raises(RecipeError, match="data.variant: the built-in set digits has no variant 'mach'; did you mean 'match'"):
        open_source(DataSpec(builtin="digits", variant="mach"), "train")
    with pytest.raises(RecipeError, match="data.variant: the built-in set digits needs one of redundant, interaction"):
        open_source(DataSpec(builtin="digits"), "train")
    with pytest.raises(RecipeError, match="data.variant: the built-in set scenes has no variants"):
        open_source(DataSpec(builtin="scenes", variant="match"), "train")
    with pytest.raises(RecipeError, match="no split 'tset'; did you mean 'test'"):
        Digits("tset")
    with pytest.raises(RecipeError, match="type 1 or more"):
        Digits("train", rows=0)
    with pytest.raises(IndexError):
        Digits("test", rows=1).read(1)
