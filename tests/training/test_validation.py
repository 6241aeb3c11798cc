"""The line printed after a validation."""

from __future__ import annotations

from types import SimpleNamespace

from chiasm.training.validation import summary

METRICS = {
    "align.recall@1[image->caption]": 0.5,
    "align.recall@1[caption->image]": 0.6,
    "align.recall@5[image->caption]": 0.9,
    "align.recall@1[image->caption, image shuffled]": 0.01,
    "answer.exact_match": 0.947,
    "answer.exact_match[kind=count]": 0.9,
    "answer.exact_match[image shuffled]": 0.19,
    "answer.exact_match[kind=count, image shuffled]": 0.2,
    "answer.exact_match[image missing]": 0.2,
    "answer.exact_match[question shuffled]": 0.25,
    "answer.exact_match[majority]": 0.1,
    "answer.exact_match[question only]": 0.35,
    "answer.f1": 0.96,
}
TASKS = {
    "align": SimpleNamespace(metrics=("recall",), inputs=("image",)),
    "answer": SimpleNamespace(metrics=("exact_match", "f1"), inputs=("image", "question")),
}


def test_the_summary_has_the_primary_figures_and_what_they_are_held_against():
    align = "align.recall@1[image->caption] 0.500 (image shuffled 0.010)"
    answer = "answer.exact_match 0.947 (question only 0.350, image shuffled 0.190, question shuffled 0.250)"
    assert summary(METRICS, TASKS) == f"{align}; {answer}"
    assert len(answer) < 120


def test_the_summary_without_a_reference_or_a_control():
    assert summary({"answer.exact_match": 1.0, "answer.exact_match[majority]": 0.1}, TASKS) == "answer.exact_match 1.000 (majority 0.100)"
    assert summary({"answer.exact_match": 1.0}, TASKS) == "answer.exact_match 1.000"
    assert summary({}, TASKS) == "nothing to report"
