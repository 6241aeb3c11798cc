"""EX4 to EX7 and EX9 to EX11 on models as they are built, which is enough for what must hold of any weights."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from scipy.stats import spearmanr
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))
from planted import features_recipe, match_row, untrained

import chiasm
from chiasm.data.scenes.export import export
from chiasm.explain import baseline, engine
from chiasm.explain.faithfulness import Check
from chiasm.explain.subject import ROWS
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


@pytest.mark.parametrize("seed", range(5))
def test_values_add_up(cards: chiasm.Run, seed: int):
    """EX6: to the difference that all inputs make."""
    found = chiasm.explain(cards, given(match_row(np.random.default_rng(seed)), "cards", "ask"), level="modality")
    assert sum(m["value"] for m in found.modalities) == pytest.approx(found.value - found.without, abs=1e-5)
    assert sum(m["share"] for m in found.modalities) == pytest.approx(1.0)


def test_the_same_row_has_the_same_map(cards: chiasm.Run):
    """EX9: whatever the random states are; what is drawn (rows for a mean, orders of the check) has seeds of its own."""
    row, found = given(match_row(np.random.default_rng(7)), "cards", "ask"), []
    for seed in (0, 1):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)  # noqa: NPY002
        baseline._rows.clear()
        found.append(chiasm.explain(cards, row).to_json())
    assert found[0] == found[1] and json.loads(json.dumps(found[0]))["parts"][0]["units"]


def test_what_is_counted_is_what_goes_through_the_model(scenes: tuple[chiasm.Run, dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    """EX11: 2^M rows for the inputs, at most 64 for their parts, and as many for the check; never more at once than at any use."""
    run, row = scenes
    seen, fuse = [], run.model.fuse
    monkeypatch.setattr(run.model, "fuse", lambda inputs, streams: seen.append(len(inputs["input_ids"])) or fuse(inputs, streams))
    told: list[tuple[int, int]] = []
    asked = given(row, "image", "audio", "question")
    found = chiasm.explain(run, asked, task="answer", target="red", progress=lambda *count: told.append(count))
    assert sum(seen) == sum(found.passes.values()) and max(seen) <= min(64, run.rows_at_once)
    assert found.passes["modalities"] == 8 and 16 < found.passes["parts"] <= 64 and found.passes["check"] <= 64
    assert told[-1] == (8 + 2 * 64, 8 + 2 * 64) and all(done <= total for done, total in told)


def peak(folder: Path, work: Callable[[], Any]) -> int:
    """Bytes of tensors that were alive at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = [event for event in json.loads((folder / "trace.json").read_text("utf-8"))["traceEvents"] if event["name"] == "[memory]"]
    return max(np.cumsum([event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]))


@pytest.mark.parametrize("task", ["answer", "kind"])
def test_explaining_takes_no_more_than_twice_the_memory_of_predicting(task: str, scenes: tuple[chiasm.Run, dict[str, Any]], tmp_path: Path):
    """EX11: of as many rows as go through the model at once, each with a picture and a sound of its own."""
    run, row = scenes
    pixels, sound = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), Path(row["audio"]).read_bytes()
    asked = [{**given(row, "question"), "image": pixels + np.uint8(i), "audio": tmp_path / f"{i}.wav"} for i in range(ROWS)]
    for one in asked:
        one["audio"].write_bytes(sound)
    rows = run.open(asked)
    target = "red" if task == "answer" else None
    explaining = peak(tmp_path, lambda: chiasm.explain(run, asked[0], task=task, target=target))
    assert 0 < explaining <= 2 * peak(tmp_path, lambda: run.predict_opened(run.tasks[task], rows))


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


def test_an_input_in_no_edge_gets_nothing(tmp_path: Path):
    """EX5: the fusion handles one input only, so the other reaches nothing."""
    rows = [match_row(np.random.default_rng(i)) for i in range(8)]
    run = untrained(tmp_path, {**features_recipe(rows, ["cards", "ask"]), "fusion": {"type": "early", "inputs": ["cards"]}}, rows)
    found = chiasm.explain(run, given(rows[0], "cards", "ask"))
    worth = {m["input"]: m["value"] for m in found.modalities}
    assert abs(worth["cards"]) > 0 and worth["ask"] == 0
    assert all(unit["value"] == 0 for part in found.parts if part["input"] == "ask" for unit in part["units"])


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
    found = [chiasm.explain(run, given(row, "image", "question"), task="answer", target=answer) for answer in ("red", "two")]
    for kind in ("words", "picture"):
        maps = [[unit["value"] for part in one.parts if part["kind"] == kind for unit in part["units"]] for one in found]
        assert spearmanr(maps[0][:16], maps[1][:16])[0] < 0.9


def test_a_turned_file_has_the_map_of_the_upright_one(scenes: tuple[chiasm.Run, dict[str, Any]], tmp_path: Path):
    """EX10: of a picture that its EXIF tag turns, parts, boxes and values are those of the picture as it is shown."""
    run, row = scenes
    upright = Picture.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8))
    upright.save(tmp_path / "upright.png")
    exif = Picture.Exif()
    exif[0x0112] = 6
    upright.transpose(Picture.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    maps = [
        chiasm.explain(run, {**given(row, "question"), "image": tmp_path / f"{name}.png"}, task="answer", target="red").parts
        for name in ("upright", "turned")
    ]
    assert maps[0] == maps[1]
    picture = next(part for part in maps[1] if part["kind"] == "picture")
    assert (picture["width"], picture["height"]) == (80, 48) and max(unit["box"][2] for unit in picture["units"]) == 80


def test_a_map_that_is_no_better_than_chance_says_so(scenes: tuple[chiasm.Run, dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    """EX2: in the notes, which every surface shows."""
    run, row = scenes
    for margin, words in ((0.14, "explanation not better than random on this model"), (0.15, "better than random orders")):
        monkeypatch.setattr(engine, "check", lambda subject, found, margin=margin: Check(margin, margin, len(found.units)))
        found = chiasm.explain(run, given(row, "image", "question"), task="answer", target="red")
        assert found.check["better"] == (margin >= 0.15) and any(line.startswith(words) for line in found.lines())


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
    for scheme in (":root {", "@media (prefers-color-scheme: dark)"):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", page.split(scheme, 1)[1].split("}", 1)[0]))
        share = int(re.search(r"^mark \{.*calc\(var\(--much\) \* (\d+)%\), transparent", page, re.MULTILINE)[1]) / 100
        for tint in ("c0", "c1"):
            assert contrast(colours["ink"], mixed(colours[tint], colours["card"], share)) >= 4.5
    assert (
        page.count('class="part ') >= 30 and "data:image/png" in page and "data:audio/wav" in page and "prefers-color-scheme: dark" in page
    )


def mixed(colour: str, ground: str, share: float) -> str:
    """`share` of a colour over another, in sRGB."""
    pairs = zip(channels(colour), channels(ground), strict=True)
    return "#" + "".join(f"{round(255 * (share * over + (1 - share) * under)):02x}" for over, under in pairs)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours."""
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(colour)] for colour in (one, other)]
    dark, light = sorted(float(np.dot((0.2126, 0.7152, 0.0722), c)) for c in linear)
    return (light + 0.05) / (dark + 0.05)


def channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def test_words_that_the_run_does_not_know(scenes: tuple[chiasm.Run, dict[str, Any]]):
    """A target of none but those would have one number for all of them, and be no explanation."""
    run, row = scenes
    found = chiasm.explain(run, {"question": "what 你好"}, task="answer", target="red zorblatt", level="modality")
    missing = [f"no {name} was given; this model reads one" for name in ("image", "audio")]
    unknown = ["not in this model's vocabulary: 你好", *missing, "not in this model's vocabulary: zorblatt"]
    assert found.warnings == unknown and f"note: {missing[0]}" in found.lines() and found.to_json()["warnings"] == unknown
    for target, message in (("你好 zorblatt", "target: not in this model's vocabulary: 你好 zorblatt; use"), ("", "target: an empty text")):
        with pytest.raises(chiasm.BadInput, match=message):
            chiasm.explain(run, given(row, "question"), task="answer", target=target, level="modality")
