"""Every case of `bad_inputs` beside good rows: what training on a whole data set, and its prediction, make of it.

What the server makes of the same cases is in serve/test_poison.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import chiasm
import made_media as made
from bad_inputs import FILTERED, OK, Cannot, Case, Stops, cases, good_row, write
from chiasm.data.inspect import inspect_data
from chiasm.data.opening import open_file
from chiasm.types import BadInput, Opened, RecipeError

sys.path.insert(0, str(Path(__file__).parent / "serve"))
from tiny_server import RECIPE, tiny_run

CATALOGUE = {"I": 22, "A": 16, "V": 12, "T": 14, "X": 8}
SOURCES = ("rows.jsonl", "table.csv", "chat.jsonl")
TASKS = {"answer": RECIPE["tasks"]["answer"], "kind": {**RECIPE["tasks"]["kind"], "labels": ["no", "yes"]}}
ADVICE = re.compile(r"; \w")  # a message says what is wrong, and after a semicolon what helps


class Trained(NamedTuple):
    run: chiasm.Run
    data: Path
    ids: dict[str, Case | None]
    before: dict[str, str]  # of the data's files

    @property
    def quarantined(self) -> dict[str, Any]:
        lines = (self.run.folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
        return {line["id"]: line for line in map(json.loads, lines) if line["split"] == "train"}


def recipe(data: Path, *names: str) -> dict[str, Any]:
    stages = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    splits = {"root": str(data), "train": {"mix": list(names)}, "validation": "good.jsonl"}
    return {**RECIPE, "tasks": TASKS, "data": splits, "stages": stages}


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One training on all of them at once."""
    data = tmp_path_factory.mktemp("bad") / "data"
    data.mkdir()
    ids = write(data)
    (data / "good.jsonl").write_text("".join(json.dumps(good_row(number)) + "\n" for number in range(6)))
    before = hashes(data)
    run = chiasm.train(recipe(data, *SOURCES), output=data.parent / "run", progress=False)
    return Trained(run, data, ids, before)


def test_every_case_has_an_outcome_on_every_path():
    numbers = Counter(one.name.split()[0] for one in cases())
    assert set(numbers) == {f"{kind}{number}" for kind, count in CATALOGUE.items() for number in range(1, count + 1)}
    assert len({one.name for one in cases()}) == len(cases())
    assert all((one.train, one.predict, one.server).count("") == 0 for one in cases())


def test_training_uses_quarantines_or_filters_each_as_the_table_says(trained: Trained):
    found = {name: trained.quarantined[name]["reason"] if name in trained.quarantined else OK for name in trained.ids}
    wanted = {name: OK if one is None or one.train == FILTERED else one.train for name, one in trained.ids.items()}
    assert named(trained, found) == named(trained, wanted)
    counts, outcomes = trained.run.data_counts["train"], Counter(OK if one is None else one.train for one in trained.ids.values())
    assert counts["read"] == len(trained.ids) == counts["used"] + counts["quarantined"] + counts["filtered"]
    assert (counts["used"], counts["filtered"]) == (outcomes[OK], outcomes[FILTERED])


def named(trained: Trained, outcomes: dict[str, str]) -> dict[str, str]:
    """Outcomes by the cases' own names, for whoever reads that a test failed."""
    return {one.name if (one := trained.ids[name]) else f"a good row, {name}": outcome for name, outcome in outcomes.items()}


def test_what_is_mended_is_noted_and_nothing_else(trained: Trained):
    notes = Counter(one.note for one in trained.ids.values() if one and one.note)
    assert trained.run.data_counts["train"]["notes"] == notes | {"image: converted from P": 2, "video: converted from P": 1}  # of a GIF


def test_messages_name_the_record_and_what_helps(trained: Trained):
    for name, line in trained.quarantined.items():
        one = trained.ids[name]
        assert one and line["message"].count("\n") == 0 and ADVICE.search(line["message"]), line
        source, _, number = name.partition(":")
        assert (Path(line["file"]).name, line["line"]) == (source, int(number)), line
        assert not one.parts or line["input"] == (one.column if one.train != "all_missing" else ""), line
        assert not re.search(r"object at 0x|Traceback|Error\b(?! :)", line["message"]), line


def test_every_reason_is_documented():
    documented = set(re.findall(r"`(\w+)`", (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")))
    assert {one.train for one in cases() if not isinstance(one.train, Stops | Cannot)} - {OK, FILTERED} <= documented


def test_files_are_read_only(trained: Trained):
    assert hashes(trained.data) == trained.before


@pytest.mark.parametrize("source", SOURCES)
def test_prediction_answers_or_refuses_each_line(trained: Trained, source: str):
    output = trained.data.parent / f"predicted-{source}.jsonl"
    done = chiasm.predict_file(trained.run, trained.data / source, output, task="kind")
    lines = {line["id"]: line for line in map(json.loads, output.read_text(encoding="utf-8").splitlines())}
    mine = {name: one for name, one in trained.ids.items() if name.startswith(source)}
    assert list(lines) == list(mine) and done.rows == len(mine)
    found = {name: line.get("reason", OK) for name, line in lines.items()}
    assert named(trained, found) == named(trained, {name: one.predict if one else OK for name, one in mine.items()})
    for name, line in lines.items():
        if "error" in line:
            assert line["line"] == int(name.partition(":")[2]) and ADVICE.search(line["error"]), line
        else:
            assert line["output"] in ("yes", "no") and 0.5 <= line["score"] <= 1, line


def test_good_rows_are_predicted_as_they_are_alone(trained: Trained):
    found = {p.id: p.probabilities["yes"] for p in predicted(trained, [n for n, one in trained.ids.items() if one is None])}
    for name, likely in found.items():
        (alone,) = predicted(trained, [name])
        assert alone.probabilities["yes"] == pytest.approx(likely, abs=1e-5)


def predicted(trained: Trained, names: list[str]) -> list[Any]:
    split = trained.run.reading(open_file(trained.data / "rows.jsonl"))
    rows = [split.open(int(name.partition(":")[2]) - 1) for name in names if name.startswith("rows.jsonl")][:32]
    return trained.run.predict_opened(trained.run.tasks["kind"], rows) if rows else []


def test_evaluation_scores_what_can_be_used(trained: Trained):
    """A row that is too long ends no evaluation; it is one of those that are counted as refused."""
    found = trained.run.evaluate(data=trained.data / "rows.jsonl")
    refused = sum(one is not None and one.train not in (OK, FILTERED) and one.source == "rows.jsonl" for one in trained.ids.values())
    assert found.counts["quarantined"] == refused and found.counts["read"] == found.counts["used"] + refused + found.counts["filtered"]


@pytest.mark.parametrize("one", [one for one in cases() if isinstance(one.train, Stops)], ids=lambda one: one.name)
def test_training_does_not_start(trained: Trained, tmp_path: Path, one: Case):
    with pytest.raises(RecipeError) as error:
        chiasm.train(recipe(trained.data, "good.jsonl"), output=tmp_path / "run", overrides=one.overrides, progress=False)
    assert one.train in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(60)
def test_no_case_takes_much_memory(trained: Trained):
    """At most 200 MB while it is opened (the kernel's own high-water mark, set back for each); and none hangs."""
    for source in SOURCES:
        split = trained.run.reading(open_file(trained.data / source))
        for index in range(len(split)):
            if one := trained.ids[split.source.origin(index)[0]]:
                Path("/proc/self/clear_refs").write_text("5")
                before = megabytes("VmHWM")
                split.open(index)
                assert megabytes("VmHWM") - before <= 200, one.name


def megabytes(what: str) -> float:
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


# ---- what an outcome alone does not say


def opened(trained: Trained, prefix: str) -> list[Opened]:
    split = trained.run.reading(open_file(trained.data / "rows.jsonl"))
    return split.open_rows(int(n.partition(":")[2]) - 1 for n, one in trained.ids.items() if one and one.name.startswith(prefix))


@pytest.mark.parametrize("through", ["backbone", "embeddings"])
def test_t6_a_tower_has_as_many_positions_as_its_backbone(tmp_path: Path, through: str):
    tasks = {"pair": {"type": "contrast", "between": ["image", "question"], "text": through}}
    run = tiny_run(tmp_path / "run", tasks=tasks)
    rows = [{"image": made.photograph(), "question": text} for text in ("is " * 100, "a red cat")]
    if through == "embeddings":  # which has no positions
        assert len(run.predict(rows)) == 2
        return
    with pytest.raises(BadInput, match=r"\d+ tokens are longer than the 64") as error:
        run.predict(rows)
    assert (error.value.reason, error.value.input) == ("too_long", "question")


def test_t7_no_special_token_comes_of_a_users_text(trained: Trained):
    processor = trained.run.processor
    (row,) = opened(trained, "T7")
    ids = processor.encode([row.sample.parts["question"]], user=True)[0]
    special = {*processor.tokenizer.all_special_ids, *(processor.placeholder_id(name) for name in processor.placeholder_counts)}
    assert row.sample.parts["question"].count("<image>") == 1 and not special & ({*ids} - {processor.tokenizer.unk_token_id})


def test_t8_t9_texts_are_kept_in_one_form(trained: Trained):
    composed, apart = opened(trained, "T8")
    assert composed.sample.parts["question"] == apart.sample.parts["question"]
    wanted = [one.parts["question"] for one in cases() if one.name.startswith("T9")]
    assert [row.sample.parts["question"] for row in opened(trained, "T9")] == wanted


def test_t14_what_stands_twice_is_reported(trained: Trained):
    report = inspect_data({name: open_file(trained.data / f"{name}.jsonl") for name in ("rows", "good")})
    assert report["splits"]["rows"]["duplicates"]["records"] >= 1
    assert any(leak["splits"] == ["rows", "good"] and leak["what"] == "image" for leak in report["leaks"])
    assert any("repeat an earlier one" in problem for problem in report["problems"])


def test_x6_one_file_is_decoded_once(trained: Trained):
    first, again = opened(trained, "X6")
    assert first.values["image"] is again.values["image"] and first.keys["image"] == again.keys["image"]
    assert torch.isfinite(trained.run.collate(trained.run.tasks["kind"], [first, again]).pool["image"]["pixel_values"]).all()


def test_paths_that_a_case_cannot_be_put_to_say_why():
    reasons = {outcome for one in cases() for outcome in (one.train, one.predict, one.server) if isinstance(outcome, Cannot)}
    assert reasons and all(len(reason.split()) >= 3 for reason in reasons)
