"""Kinds of columns, from their values."""

import pytest

from chiasm.data.columns import describe, dominance

N = 60


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("photo", [b"\x89PNG\r\n"] * N, "image"),
        ("photo", [f"{i}.jpg" for i in range(N)], "image"),
        ("clip", [b"RIFF\x00\x00\x00\x00WAVE"] * N, "audio"),
        ("sticker", [b"RIFF\x00\x00\x00\x00WEBP"] * N, "image"),
        ("film", ["a.mp4"] * N, "video"),
        ("blob", [b"?"] * N, "unknown"),
        ("vector", [[0.5, 1.0, 2.0]] * N, "features"),
        ("ragged", [[0.5], [1.0, 2.0]] * 30, "unknown"),
        ("age", [20 + i % 40 for i in range(N)], "number"),
        ("price", [i + 0.5 for i in range(N)], "number"),
        ("user_id", [i % 20 for i in range(N)], "id"),
        ("row", list(range(N)), "id"),
        ("code", [f"x{i}" for i in range(N)], "id"),
        ("paid", [True, False] * 30, "category"),
        ("colour", ["red", "blue", None] * 20, "category"),
        ("review", [f"I like it {i} times" for i in range(N)], "text"),
        ("title_zh", [f"标题{i}" for i in range(N)], "text"),
        ("split", ["train", "val"] * 30, "split"),
        ("task", ["same"] * N, "constant"),
        ("empty", [None] * N, "constant"),
    ],
)
def test_kind(name, values, kind):
    assert describe(name, values).kind == kind


def test_missing_and_counts():
    column = describe("colour", ["red", "", float("nan"), None, "blue", "red", "red", "blue", "red", "red", "red", "red", "blue", "red"])
    assert (column.missing, column.distinct, column.counts["red"]) == (3, 2, 8)


def test_dominance():
    assert dominance([1, 1, 2, 2], ["a", "a", "b", "b"]) == (1.0, 0.5)
