"""A user's table -> a recipe that loads, reads the right columns, and says why."""

import json

import pytest

from chiasm.data.draft import find_splits, infer_recipe, word
from chiasm.recipe import load_recipe
from chiasm.types import RecipeError


@pytest.fixture
def reviews(tmp_path):
    rows = ["id,Title,Review Text,Age,Rating,Shop,Liked"]
    for i in range(100):
        rows.append(
            f'{i},"great {i} days","I wore it {i} times, all good",{20 + i % 30},{i % 5},{"north" if i % 3 else "south"},{int(i % 5 > 1)}'
        )
    path = tmp_path / "reviews_train.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def load(text, folder):
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml")


def test_text_and_table(reviews, tmp_path):
    recipe = load(text := infer_recipe(reviews, "Liked"), tmp_path)
    assert recipe.inputs["title"].options == {"column": "Title"} and recipe.inputs["review_text"].options == {"column": "Review Text"}
    assert recipe.inputs["table"].options == {"numbers": ["Age", "Rating"], "categories": ["Shop"]}
    assert recipe.tasks["predict"].type == "classify" and recipe.tasks["predict"].options["target"] == "Liked"
    assert recipe.train.best == "validation predict.pr_auc" and recipe.backbone.arch == "bert"
    assert "# id: left out" in text and "# Rating: alone it guesses the target in 100% of the rows (60% without)" in text


def test_splits_beside_the_file(reviews, tmp_path):
    for name in ("reviews_val.csv", "reviews_test.csv"):
        (tmp_path / name).write_text(reviews.read_text())
    assert {split: path.name for split, path in find_splits(tmp_path).items()} == {
        "train": "reviews_train.csv",
        "validation": "reviews_val.csv",
        "test": "reviews_test.csv",
    }
    recipe = load(infer_recipe(tmp_path, "Liked"), tmp_path)
    assert recipe.data.validation.file.endswith("reviews_val.csv")


@pytest.mark.parametrize(
    ("records", "kind", "arch"),
    [
        ([{"question": f"what is {i}?", "image": f"{i}.png", "answer": f"it is {i}"} for i in range(60)], "generate", "gpt2"),
        ([{"image": f"{i}.png", "label": "cat" if i % 2 else "dog"} for i in range(60)], "classify", None),
        ([{"sound": [0.1, i], "y": i + 0.5} for i in range(60)], "regress", None),
    ],
)
def test_task_follows_the_target(records, kind, arch, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    recipe = load(infer_recipe(path), tmp_path)
    assert (recipe.tasks["predict"].type, recipe.backbone.arch) == (kind, arch)


def test_folder_of_pictures(tmp_path):
    for i in range(30):
        for name in ("cats", "dogs"):
            (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "pictures" / name / f"{i}.png").write_bytes(b"")
    recipe = load(infer_recipe(tmp_path / "pictures"), tmp_path)
    assert list(recipe.inputs) == ["image"] and recipe.tasks["predict"].options["target"] == "label"


def test_errors(reviews, tmp_path):
    with pytest.raises(RecipeError, match="--target COLUMN"):
        infer_recipe(reviews)
    with pytest.raises(RecipeError, match="did you mean 'Liked'"):
        infer_recipe(reviews, "Likd")
    with pytest.raises(RecipeError, match=r"did you mean 'reviews_train\.csv'"):
        infer_recipe(tmp_path / "review_train.csv", "Liked")


def test_word():
    assert [word(w) for w in ("a_b", "yes", "Review Text", "a: b", "数")] == ["a_b", '"yes"', '"Review Text"', '"a: b"', '"数"']
