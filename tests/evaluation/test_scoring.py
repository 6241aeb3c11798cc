"""Keys, groups, controls on the rows that have the input, and verdicts."""

import pytest

from chiasm.evaluation.result import Evaluation
from chiasm.evaluation.scoring import Answers, cluster_of, is_finite, key, score
from chiasm.types import Prediction


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("answer", "exact_match"), "answer.exact_match"),
        (("answer", "exact_match", "", "kind=spoken"), "answer.exact_match[kind=spoken]"),
        (("answer", "exact_match", "", "kind=spoken", "image shuffled"), "answer.exact_match[kind=spoken, image shuffled]"),
        (("align", "recall", "1[image->caption]"), "align.recall@1[image->caption]"),
        (("align", "recall", "1[image->caption]", "image shuffled"), "align.recall@1[image->caption, image shuffled]"),
        (("sort", "f1", "[class=a]"), "sort.f1[class=a]"),
    ],
)
def test_keys(parts, expected):
    assert key(*parts) == expected


def rows(outputs):
    """Question i is of kind written or spoken in turn; the right answer is "a"; two rows share a picture."""
    return [Prediction(f"r{i}", "answer", o, "a", groups={"kind": "spoken" if i % 2 else "written"}) for i, o in enumerate(outputs)]


def made(**changes):
    real = rows("a" * 90 + "b" * 10)
    shuffled = rows("b" * 80 + "a" * 20)
    given = {
        "real": real,
        "controls": {("image", "shuffled"): shuffled, ("image", "missing"): shuffled, ("audio", "shuffled"): real},
        "references": {"question only": rows("a" * 20 + "b" * 80)},
        "present": {"image": {p.id for p in real}, "audio": {p.id for p in real[1::2]}},
        "media": {"image": {p.id: str(i // 2) for i, p in enumerate(real)}},
    }
    found = Evaluation()
    score(Answers("answer", ["exact_match", "token_f1"], **(given | changes)), found)
    return found


def test_scores_groups_and_controls():
    found = made()
    assert found.metrics["answer.exact_match"] == 0.9
    assert found.metrics["answer.exact_match[kind=spoken]"] == 0.9
    assert found.metrics["answer.exact_match[image shuffled]"] == 0.2
    assert found.metrics["answer.exact_match[kind=written, image shuffled]"] == 0.2
    assert found.metrics["answer.exact_match[question only]"] == 0.2
    low, high = found.intervals["answer.exact_match"]
    assert 0.78 < low < 0.88 < 0.92 < high < 0.99
    assert found.differences["answer.exact_match[image shuffled]"]["difference"] == pytest.approx(-0.7)


def test_an_input_that_few_rows_have_is_judged_on_those():
    difference = made().differences["answer.exact_match[audio shuffled]"]
    assert (difference["rows"], difference["difference"]) == (50, 0.0)


def test_verdicts_name_use_no_use_and_the_question_only_level():
    verdicts = made().verdicts
    assert verdicts[0].startswith("answer: uses `image`: exact_match falls from 0.90 to 0.20 when shuffled [-0.")
    assert verdicts[1] == (
        "answer: with `image` shuffled, 0.20 is at the question-only level 0.20 (the best training answer for each question): "
        "what is above it comes from `image`"
    )
    assert verdicts[2].startswith("answer: no measurable use of `audio`")


def test_an_input_that_no_row_has():
    real = rows("a" * 40)
    found = made(real=real, controls={("audio", "shuffled"): real}, present={})
    assert found.verdicts == ["answer: no row of this split has `audio`"]


def test_clusters_are_the_media_that_rows_share():
    media = {"audio": {"r0": "x", "r1": "y"}, "image": {"r0": "p", "r1": "p", "r2": "q"}}
    answers = Answers("answer", ["exact_match"], real=rows("aaab"), media=media)
    assert cluster_of(answers) == {"r0": ("media", "p"), "r1": ("media", "p"), "r2": ("media", "q"), "r3": ("row", "r3")}


def test_rows_without_a_target_and_undefined_metrics_are_said():
    found = Evaluation()
    score(Answers("answer", ["exact_match"], real=[Prediction("r", "answer", "a")]), found)
    score(Answers("answer", ["auroc"], real=rows("aa")), found)
    assert found.metrics == {}
    assert found.notes == ["answer: no row has a target, so there is no score", "answer.auroc is undefined on these 2 rows"]


def test_is_finite():
    assert all(map(is_finite, [{"image": [0.0, 1.0]}, None, "nan", ["a"], 3]))
    assert not any(map(is_finite, [{"image": [0.0, float("nan")]}, float("inf"), [float("nan")]]))
