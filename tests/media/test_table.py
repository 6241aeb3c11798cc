"""The table modality: what is learned from training rows, gaps, outliers, unseen categories, and state that travels as JSON."""

import json
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from chiasm.media.table import Table
from chiasm.types import BadInput, RecipeError

ROWS = [
    {"age": 30, "height": "1.70", "colour": "red", "member": True},
    {"age": "40", "height": None, "colour": "blue", "member": False},
    {"age": 50.0, "height": "n/a", "colour": "red", "member": None},
    {"age": math.nan, "height": "1.90", "colour": "", "member": True},
]


def fitted(rows=ROWS, **options):
    table = Table(Table.Options(**options))
    table.fit(rows)
    return table


def tensors(table, *rows):
    return table.collate([table.open(row)[0] for row in rows])


def test_raw_gathers_the_columns():
    parts = {"age": 3, "colour": None, "text": "no"}
    assert Table(Table.Options(columns=["age", "colour"])).raw(parts, "facts") == {"age": 3, "colour": None}
    assert Table(Table.Options(numbers=["age"], categories=["gone"])).raw(parts, "facts") == {"age": 3, "gone": None}
    assert Table(Table.Options(columns=["colour", "gone"])).raw(parts, "facts") is None
    assert Table().raw({"facts": {"a": 1}}, "facts") == {"a": 1}
    assert Table(Table.Options(column="f")).raw({"f": {"a": 1}}, "facts") == {"a": 1}


def test_fit_tells_numbers_from_categories_and_counts_gaps():
    table = fitted()
    assert table.number_columns == ["age", "height"] and table.category_columns == ["colour", "member"]
    assert table.state()["vocabularies"] == [["red", "blue"], ["True", "False"]] and table.vocabulary_sizes == [4, 4]
    assert table.missing == {"age": 1, "height": 2, "colour": 1, "member": 1}
    assert fitted(categories=["age"]).category_columns[0] == "age"


def test_tensors():
    found = tensors(fitted(), *ROWS)
    assert found["table_numbers"].shape == (4, 2) and found["table_numbers"].dtype == torch.float32
    assert found["table_missing"].tolist() == [[False, False], [False, True], [False, True], [True, False]]
    assert found["table_categories"].tolist() == [[2, 2], [3, 3], [2, 0], [0, 2]]
    seen = found["table_numbers"][:3, 0]
    assert abs(seen.mean()) < 1e-5 and abs(seen.std(correction=0) - 1) < 0.05
    assert set(found) == set(Table.tensors)


def test_unseen_category_and_outliers():
    table = fitted()
    row, notes = table.open({"age": 1e30, "height": "1.8", "colour": "green", "member": True})
    assert notes == ("rare or unseen category",)
    found = table.collate([row])
    assert found["table_categories"].tolist() == [[1, 2]] and found["table_numbers"][0, 0] == 10


def test_a_wild_value_does_not_set_the_scale():
    rows = [{"x": float(n % 100)} for n in range(1000)] + [{"x": 1e9}]
    found = tensors(fitted(rows), {"x": 0}, {"x": 99})["table_numbers"]
    assert found[1, 0] - found[0, 0] > 3


def test_limits_on_categories():
    rows = [{"c": name} for name in "aaabbcd"]
    assert fitted(rows, min_count=2).state()["vocabularies"] == [["a", "b"]]
    assert fitted(rows, max_categories=1).state()["vocabularies"] == [["a"]]


@pytest.mark.parametrize(("value", "reason"), [("old", "bad_type"), ([3], "bad_type"), ("inf", "nonfinite"), (math.inf, "nonfinite")])
def test_a_bad_number_names_its_column(value, reason):
    with pytest.raises(BadInput, match="'age'") as error:
        fitted().open({**ROWS[0], "age": value})
    assert error.value.reason == reason


def test_few_bad_numbers_do_not_make_a_column_text():
    rows = [{"age": n} for n in range(99)] + [{"age": "old"}]
    assert fitted(rows).number_columns == ["age"]
    assert fitted(rows[:9] + rows[-1:]).category_columns == ["age"]


def test_odd_columns():
    table = fitted([{"same": 3, "gap": None, "n": 1}, {"same": 3, "gap": None, "n": 2}])
    found = tensors(table, {"same": 3, "gap": None, "n": 1})
    assert torch.isfinite(found["table_numbers"]).all() and table.category_columns == ["gap"] and table.vocabulary_sizes == [2]
    only = fitted([{"c": "a"}])
    assert tensors(only, {"c": "a"}, {"c": None})["table_numbers"].shape == (2, 0)
    assert tensors(fitted([{"n": 1}]), {"n": None})["table_categories"].shape == (1, 0)
    assert fitted([{"n": np.int64(3)}, {"n": np.float32(2)}]).number_columns == ["n"]


def test_state_is_json_and_restores_all():
    table, copy = fitted(), Table()
    copy.load_state(json.loads(json.dumps(table.state())))
    for name, tensor in tensors(table, *ROWS).items():
        assert torch.equal(tensor, tensors(copy, *ROWS)[name])
    assert copy.state() == table.state()


def test_wrong_use():
    with pytest.raises(RecipeError, match="fit"):
        Table(Table.Options(columns=["a"])).open({"a": 1})
    with pytest.raises(RecipeError, match="columns"):
        Table().fit([None])
    with pytest.raises(ValidationError, match="both"):
        Table.Options(numbers=["a"], categories=["a"])
    with pytest.raises(BadInput):
        fitted().open("red")
