"""Keys taken apart and laid out, on the web page and in the terminal."""

import io

import pytest
from rich.console import Console

from chiasm.evaluation.scoring import key
from chiasm.report.console import print_scores
from chiasm.report.scores import Key, parse_key, split_scores


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("answer", "exact_match"), Key("answer", "exact_match")),
        (
            ("answer", "exact_match", "", "kind=how many", "image shuffled"),
            Key("answer", "exact_match", "", "kind=how many", "image shuffled"),
        ),
        (("align", "recall", "1[image->caption]", "image missing"), Key("align", "recall@1", "image->caption", "", "image missing")),
        (("sort", "f1", "[class=a]"), Key("sort", "f1", "", "class=a")),
        (("answer", "exact_match", "", "question only"), Key("answer", "exact_match", "", "", "question only")),
    ],
)
def test_keys_are_read_as_they_are_written(parts, expected):
    assert parse_key(key(*parts)) == expected


def test_layout(split):
    answer, align = split_scores(*split)
    assert (answer.task, answer.main.title, answer.main.real.text, answer.main.real.interval) == (
        "answer",
        "exact_match",
        "0.947",
        "[0.938, 0.955]",
    )
    assert list(answer.main.controls) == ["image shuffled", "image missing", "audio shuffled", "audio missing", "question only", "majority"]
    assert answer.main.controls["image shuffled"].difference == "-0.757 [-0.777, -0.737]"
    assert [row.title for row in answer.groups["kind"]][-1] == "spoken"
    assert answer.groups["kind"][-1].controls["audio shuffled"].value == 0.11
    assert [row.title for row in answer.others] == ["token_f1"]
    assert align.main.title == "recall@1 image → caption"
    assert len(align.others) == 5
    assert len(answer.verdicts) == 4


def test_errors_have_a_scale_of_their_own():
    (task,) = split_scores({"price.mean_absolute_error": 12.5, "price.mean_absolute_error[image shuffled]": 50.0}, {})
    assert (task.main.scale, task.main.higher_is_better) == (50.0, False)


@pytest.mark.parametrize("width", [30, 60, 120])
def test_the_terminal_shows_it_at_any_width(split, width):
    out = io.StringIO()
    print_scores(*split, title="test", console=Console(file=out, width=width, highlight=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = out.getvalue()
    assert "test answer" in text
    assert "0.947" in text
    assert ("image shuffled" in text) or width < 40
