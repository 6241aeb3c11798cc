"""EX5 to EX7, EX9 and EX11 on models as they are built, which is enough for what must hold of any weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from planted import features_recipe, match_row, untrained

import chiasm
from chiasm.data.scenes.export import export
from chiasm.types import ChiasmError

SMALL = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
SCENES: dict[str, Any] = {
    "inputs": {
        "image": {"modality": "image", "size": 64},
        "audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 1.0},
        "question": "text",
    },
    "encoders": {"image": {**SMALL, "grid": 4}, "audio": {**SMALL, "tokens": 4}},
    "backbone": {
        "arch": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "tokenizer": "words",
        "initializer_range": 0.3,
    },
    "fusion": {"type": "early"},
    "tasks": {
        "answer": {"type": "generate", "prompt": "{question} answer :", "target": "{answer}", "generation": {"max_new_tokens": 3}},
        "align": {"type": "contrast", "between": ["image", "caption"]},
        "kind": {"type": "classify", "prompt": "{question}", "target": "kind", "dropout": 0.0},
    },
}


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    rows = [match_row(np.random.default_rng(i)) for i in range(40)]
    return untrained(tmp_path_factory.mktemp("cards"), features_recipe(rows, ["cards", "ask"]), rows)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[chiasm.Run, dict[str, Any]]:
    """A run that sees, hears and reads, and a row for it."""
    folder = tmp_path_factory.mktemp("scenes")
    export(folder / "data", scenes_per_split=4)
    rows = [json.loads(line) for line in (folder / "data" / "train.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row |= {name: f"data/{row[name]}" for name in ("image", "audio") if row.get(name)}
    run = untrained(folder, SCENES, rows)
    whole = next(row for row in rows if row.get("image") and row.get("question") and row.get("answer"))
    captioned = next(row for row in rows if row.get("caption"))
    heard = next(row for row in rows if row.get("audio"))
    return run, {**whole, "image": str(folder / whole["image"]), "audio": str(folder / heard["audio"]), "caption": captioned["caption"]}


def given(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def test_values_add_up_and_are_the_same_again(cards: chiasm.Run):
    row = given(match_row(np.random.default_rng(7)), "cards", "ask")
    found = chiasm.explain(cards, row)
    assert sum(m["value"] for m in found.modalities) == pytest.approx(found.value - found.without, abs=1e-5)  # EX6
    assert sum(m["share"] for m in found.modalities) == pytest.approx(1.0)
    assert found.to_json() == chiasm.explain(cards, row).to_json()  # EX9
    assert found.passes["modalities"] == 4 and found.passes["parts"] <= 64  # EX11
    assert json.loads(json.dumps(found.to_json()))["parts"][0]["units"]


def test_an_ignored_input_gets_nothing(cards: chiasm.Run):
    """EX5: the connector of one input gives zeros whatever it reads."""
    with torch.no_grad():
        kept = [p.clone() for p in cards.model.model.connectors["ask"].parameters()]
        for p in cards.model.model.connectors["ask"].parameters():
            p.zero_()
    found = chiasm.explain(cards, given(match_row(np.random.default_rng(3)), "cards", "ask"))
    with torch.no_grad():
        for p, value in zip(cards.model.model.connectors["ask"].parameters(), kept, strict=True):
            p.copy_(value)
    worth = {m["input"]: abs(m["value"]) for m in found.modalities}
    assert worth["cards"] > 0 and worth["ask"] <= 1e-6 * worth["cards"]
    units = {part["input"]: max(abs(unit["value"]) for unit in part["units"]) for part in found.parts}
    assert units["cards"] > 0 and units["ask"] <= 1e-6 * units["cards"]


def test_equal_tokens_get_equal_values(tmp_path: Path):
    """EX7: two equal vectors at places that the model does not tell apart."""
    row = match_row(np.random.default_rng(5))
    row["cards"][2] = row["cards"][0]
    recipe = {**features_recipe([row], ["cards", "ask"]), "fusion": {"type": "cross_attention", "positions": "none"}}
    run = untrained(tmp_path, recipe, [match_row(np.random.default_rng(i)) for i in range(8)])
    found = chiasm.explain(run, given(row, "cards", "ask"))
    values = [unit["value"] for unit in next(part for part in found.parts if part["input"] == "cards")["units"]]
    assert values[0] == pytest.approx(values[2], abs=1e-4 * max(map(abs, values)))
    assert abs(values[0] - values[1]) > 0.01 * abs(values[0])


def test_every_kind_of_part_costs_no_more_than_64_rows(scenes: tuple[chiasm.Run, dict[str, Any]]):
    run, row = scenes
    found = chiasm.explain(run, given(row, "image", "audio", "question"), task="answer", target="red")
    assert found.answer == "red" and found.passes["modalities"] == 8 and found.passes["parts"] <= 64
    kinds = {part["kind"]: part for part in found.parts}
    assert set(kinds) == {"picture", "words", "sound"}
    assert " ".join(unit["text"] for unit in kinds["words"]["units"]) == row["question"]
    covered = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (unit["box"] for unit in kinds["picture"]["units"]))
    assert covered == pytest.approx(kinds["picture"]["width"] * kinds["picture"]["height"])
    assert kinds["sound"]["units"][0]["start"] == 0 and kinds["sound"]["units"][-1]["end"] == kinds["sound"]["seconds"]
    assert kinds["sound"]["baseline"] == "silence" and "mean of" in kinds["picture"]["baseline"]
    assert any(line.strip().startswith("question") and "left out" in line for line in found.lines())


def test_another_answer_has_another_map(scenes: tuple[chiasm.Run, dict[str, Any]]):
    """EX4: the map is of the answer that is asked about."""
    run, row = scenes
    maps = []
    for answer in ("red", "two"):
        found = chiasm.explain(run, given(row, "image", "question"), task="answer", target=answer)
        maps.append([u["value"] for part in found.parts if part["kind"] == "words" for u in part["units"]])
    assert np.corrcoef(maps)[0, 1] < 0.9


def test_similarities_and_labels_are_explained_too(scenes: tuple[chiasm.Run, dict[str, Any]]):
    run, row = scenes
    alike = chiasm.explain(run, given(row, "image", "caption"), task="align")
    assert {m["input"] for m in alike.modalities} == {"image", "caption"} and alike.answer is None
    [prediction] = run.predict([given(row, "image", "question")], task="kind")
    label = chiasm.explain(run, given(row, "image", "question"), task="kind", level="modality")
    assert label.answer == prediction.output and label.value == pytest.approx(np.log(prediction.score), abs=1e-4) and not label.parts
    other = next(name for name in prediction.probabilities if name != prediction.output)
    told = chiasm.explain(run, given(row, "image", "question"), task="kind", level="modality", target=other)
    assert told.value == pytest.approx(np.log(prediction.probabilities[other]), abs=1e-4)


def test_what_cannot_be_explained_is_said(scenes: tuple[chiasm.Run, dict[str, Any]]):
    run, row = scenes
    with pytest.raises(ChiasmError, match="has no label 'colours'"):
        chiasm.explain(run, given(row, "image", "question"), task="kind", target="colours")
    with pytest.raises(ChiasmError, match="level: 'tokens'.*did you mean 'token'"):
        chiasm.explain(run, given(row, "image", "question"), level="tokens")
    with pytest.raises(ChiasmError, match="no answer to choose from"):
        chiasm.explain(run, given(row, "image", "caption"), task="align", target="red")


def test_the_page_has_everything_in_itself(scenes: tuple[chiasm.Run, dict[str, Any]]):
    run, row = scenes
    page = chiasm.explain(run, given(row, "image", "audio", "question"), task="answer").html()
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert (
        page.count('class="part ') >= 30 and "data:image/png" in page and "data:audio/wav" in page and "prefers-color-scheme: dark" in page
    )
