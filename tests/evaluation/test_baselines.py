"""Blind answerers: the commonest training answer, overall and per question."""

import pytest

from chiasm.evaluation.baselines import majority, question_only
from chiasm.types import ChiasmError

ROWS = [
    ({"question": "What colour?"}, "red"),
    ({"question": "what  colour?"}, "red"),
    ({"question": "what colour?"}, "blue"),
    ({"question": "how many?"}, 2),
    ({"question": "how many?"}, 2),
    ({"question": "how many?"}, 2.0),
    ({"question": "how many?"}, 1),
]


def test_majority_ignores_the_question():
    assert majority(ROWS).answer({"question": "what colour?"}) == "2"


def test_question_only_takes_the_best_answer_of_each_question():
    baseline = question_only(ROWS)
    assert baseline.name == "question only"
    assert baseline.answer({"question": "What colour?"}) == "red"
    assert baseline.answer({"question": "how many?"}) == "2"
    assert baseline.answer({"question": "where?"}) == "2"  # never asked: the majority
    assert baseline.answer({}) == "2"


def test_ties_do_not_depend_on_the_order():
    rows = [({"question": "q"}, "b"), ({"question": "q"}, "a")]
    assert question_only(rows).answer({"question": "q"}) == question_only(rows[::-1]).answer({"question": "q"}) == "a"


def test_no_rows_is_an_error():
    with pytest.raises(ChiasmError, match="at least one training row"):
        majority([])
