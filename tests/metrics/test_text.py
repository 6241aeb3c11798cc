"""Exact match, token F1 and BLEU, against figures worked out by hand and sacrebleu's own."""

import math

import pytest
import sacrebleu

from chiasm.components import find
from chiasm.types import Prediction


def rows(*pairs):
    return [Prediction(str(i), "t", output, target) for i, (output, target) in enumerate(pairs)]


def value(name, predictions, **options):
    return find("metric", name)(**options).compute(predictions)[""]


def test_exact_match_ignores_case_and_spaces_and_optionally_punctuation():
    predictions = rows(("Red ", "red"), ("dark  blue", "dark blue"), ("no.", "no"), ("two", ["2", "two"]), (None, ""))
    assert value("exact_match", predictions) == 3 / 5
    assert value("exact_match", predictions, punctuation=False) == 4 / 5


def test_token_f1_by_hand():
    # 2 shared words of 3 and 4; nothing shared; the best of several; both empty; empty answer
    predictions = rows(("a red star", "the red star shines"), ("cat", "dog"), ("blue cup", ["cup", "blue cup"]), ("", ""), (None, "x"))
    assert find("metric", "token_f1")().scores(predictions) == pytest.approx([4 / 7, 0, 1, 1, 0])


CAPTIONS = [
    ("a red sun above a blue cloud", "a red sun is above a blue cloud"),
    ("two green stars and a king", "two green stars and one king"),
    ("A horse left of the moon.", "a horse left of the moon."),
]


def test_bleu_is_sacrebleus():
    ours = value("bleu", rows(*CAPTIONS))
    theirs = sacrebleu.corpus_bleu([c[0] for c in CAPTIONS], [[c[1] for c in CAPTIONS]], lowercase=True).score
    assert ours * 100 == pytest.approx(theirs, abs=1e-9)
    assert 0.4 < ours < 0.9


def test_bleu_with_several_references():
    second = ["a sun over a cloud", "two stars and a king", "the moon is right of a horse"]
    ours = value("bleu", rows(*[(o, [t, s]) for (o, t), s in zip(CAPTIONS, second, strict=True)]))
    theirs = sacrebleu.corpus_bleu([c[0] for c in CAPTIONS], [[c[1] for c in CAPTIONS], second], lowercase=True).score
    assert ours * 100 == pytest.approx(theirs, abs=1e-9)


def test_perplexity_is_that_of_all_tokens_together():
    rows = [
        Prediction("a", "t", None, "x", surprise=(math.log(4.0) * 3, 3)),
        Prediction("b", "t", None, "y", surprise=(0.0, 1)),
        Prediction("c", "t", "z"),
    ]
    assert value("perplexity", rows) == pytest.approx(4 ** (3 / 4))
    assert find("metric", "perplexity")().compute(rows[2:]) == {}
