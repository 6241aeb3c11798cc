"""Draws that depend on their key alone, and samples of rows that do not fall in step with a file's own rhythm."""

from __future__ import annotations

from chiasm.data.randomness import generator, some_of


def test_equal_keys_draw_equal_numbers():
    assert generator(0, 1, "a").random() == generator(0, 1, "a").random()
    assert generator(0, 1, "a").random() != generator(0, 1, "b").random()


def test_some_rows_are_of_every_kind_in_a_file_that_repeats():
    rows = some_of(160_000, 20_000)
    assert len(rows) == len(set(rows)) == 20_000
    assert rows == sorted(rows)
    for place in range(8):  # eight rows about each picture
        assert 2_200 < sum(row % 8 == place for row in rows) < 2_800


def test_few_rows_are_all_taken():
    assert some_of(5, 9) == [0, 1, 2, 3, 4]
