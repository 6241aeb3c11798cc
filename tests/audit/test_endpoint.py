"""An audit of a server: what it concludes of servers that look, do not look, or are misled by what they see; and how it asks."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from coloured import rows_at
from stand_in import Reply, colour_of, said, serving

import chiasm
from chiasm.audit import endpoint
from chiasm.types import ChiasmError

WRONG = {"red": "blue", "blue": "green", "green": "red"}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)


def looks(body: dict[str, Any], number: int) -> Reply:
    colour = colour_of(body["messages"][0]["content"])
    return said(f"It is {colour or 'red'}.")


def never_looks(body: dict[str, Any], number: int) -> Reply:
    return said("It is red.")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def verdicts(found: chiasm.Audit) -> dict[str, str]:
    return {one.input: one.verdict for one in found.verdicts}


def scores(found: chiasm.Audit) -> dict[str, float]:
    return {one.condition: one.score for one in found.scores}


def test_a_server_that_looks(tmp_path: Path):
    with serving(looks) as (url, seen):
        found = chiasm.audit(url, rows_at(tmp_path, 60))
    assert verdicts(found) == {"image": "uses", "question": "no measurable use"}
    assert scores(found)["as it is"] == 1.0 and scores(found)["image shuffled"] < 0.6 and scores(found)["image missing"] < 0.6
    assert 60 < len(seen) <= 60 * 4 and {one["path"] for one in seen} == {"/v1/chat/completions"}
    assert {one["model"] for one in seen} == {"stand-in"}
    assert any("uses `image`" in line for line in found.lines())
    assert found.metric == "contains" and "word for word" in found.to_json()["scored"]


def test_a_server_that_does_not_look(tmp_path: Path):
    with serving(never_looks) as (url, _):
        found = chiasm.audit(url, rows_at(tmp_path, 60))
    assert verdicts(found)["image"] == "no measurable use"
    assert scores(found)["as it is"] == scores(found)["image shuffled"] == scores(found)["image missing"]


def test_a_server_that_the_picture_misleads(tmp_path: Path):
    def misled(body: dict[str, Any], number: int) -> Reply:
        colour = colour_of(body["messages"][0]["content"])
        return said(WRONG[colour] if colour else "red")

    with serving(misled) as (url, _):
        assert verdicts(chiasm.audit(url, rows_at(tmp_path, 60)))["image"] == "hurts"


def test_too_few_rows_and_no_right_answers_cannot_tell(tmp_path: Path):
    with serving(looks) as (url, _):
        few = chiasm.audit(url, rows_at(tmp_path, 60), rows=12)
    assert verdicts(few)["image"] == "cannot tell" and "20 needed" in few.verdicts[0].sentence
    with serving(lambda body, number: said("no idea")) as (url, _):
        dumb = chiasm.audit(url, rows_at(tmp_path, 60))
    assert verdicts(dumb)["image"] == "cannot tell" and "nothing to lose" in dumb.verdicts[0].sentence


def test_a_wide_interval_is_not_called_no_use(tmp_path: Path):
    """A server that guesses: a third is right whatever the picture, but 24 rows cannot rule out that it looks a little."""
    names = list(WRONG)

    def guesses(body: dict[str, Any], number: int) -> Reply:
        return said(names[zlib.crc32(json.dumps(body["messages"]).encode()) % 3])

    with serving(guesses) as (url, _):
        image = chiasm.audit(url, rows_at(tmp_path, 24)).verdicts[0]
    assert image.input == "image" and image.verdict == "cannot tell" and "would not show" in image.sentence


def test_a_busy_server_is_asked_again_as_late_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    waited: list[float] = []
    monkeypatch.setattr(endpoint.time, "sleep", waited.append)

    def busy(body: dict[str, Any], number: int) -> Reply:
        return (429, {"Retry-After": "7"}, {"error": "slow down"}) if number <= 2 else looks(body, number)

    with serving(busy) as (url, _):
        found = chiasm.audit(url, rows_at(tmp_path, 20))
    assert waited == [7.0, 7.0] and found.rows == 20


def test_an_audit_goes_on_where_it_stopped(tmp_path: Path):
    kept, data, broken = tmp_path / "kept.jsonl", rows_at(tmp_path, 40), [True]

    def fails(body: dict[str, Any], number: int) -> Reply:
        return (400, {}, {"error": "out of credit"}) if broken and number > 60 else looks(body, number)

    with serving(fails) as (url, seen):
        first = chiasm.audit(url, data, kept=kept)
        assert 20 <= first.rows < 40 and any("stopped after" in note and "out of credit" in note for note in first.notes)
        assert verdicts(first)["image"] == "uses" and len(kept.read_text("utf-8").splitlines()) == 60
        with kept.open("a", encoding="utf-8") as file:
            file.write('{"key": "a line that was cut o')
        broken.clear()
        asked = {json.dumps(one["messages"]) for one in seen[:60]}
        before = len(seen)
        assert chiasm.audit(url, data, kept=kept).rows == 40
        assert len(seen) > before and not asked & {json.dumps(one["messages"]) for one in seen[before:]}


def test_ctrl_c_gives_what_was_measured(tmp_path: Path):
    def stop(done: int, total: int) -> None:
        if done >= 120:
            raise KeyboardInterrupt

    with serving(looks) as (url, _):
        found = chiasm.audit(url, rows_at(tmp_path, 60), progress=stop)
    assert 20 <= found.rows < 60 and any("Ctrl-C" in note for note in found.notes) and verdicts(found)["image"] == "uses"


def test_only_the_given_address_is_asked_and_the_key_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(never_looks) as (elsewhere, seen_there):
        away: Reply = (307, {"Location": f"{elsewhere}/chat/completions"}, {})
        with serving(lambda body, number: away) as (url, seen), pytest.raises(ChiasmError, match="answered 307"):
            chiasm.audit(url, rows_at(tmp_path, 20), name="m")
        assert not seen_there and seen[0]["key"] == "Bearer secret"


def test_what_it_will_cost_is_said_first(tmp_path: Path):
    told: list[str] = []
    with serving(looks) as (url, seen):
        chiasm.audit(url, rows_at(tmp_path, 20), announce=lambda text: told.append(f"{text}; asked so far: {len(seen)}"))
    assert told == [f"stand-in at {url}: 20 rows x 4 conditions = at most 80 requests; asked so far: 0"]


def test_chats_are_read_too_and_wrong_columns_are_named(tmp_path: Path):
    plain = [json.loads(line) for line in rows_at(tmp_path, 24).read_text().splitlines()]
    chat = [
        {"messages": [turn("user", f"<image>{row['question']}"), turn("assistant", row["answer"])], "images": [row["image"]]}
        for row in plain
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat), encoding="utf-8")
    with serving(looks) as (url, seen):
        assert verdicts(chiasm.audit(url, tmp_path / "chat.jsonl"))["image"] == "uses"
        assert seen[0]["messages"][0]["content"][-1]["text"] in {r["question"] for r in plain}
        with pytest.raises(ChiasmError, match="no column 'anser'; did you mean 'answer'"):
            chiasm.audit(url, tmp_path / "rows-0.jsonl", answer="anser")


def test_a_difference_says_over_which_rows_it_is(tmp_path: Path):
    """Half of the rows have a picture: the score is over all of them, the difference over those that have one."""
    data = rows_at(tmp_path, 60)
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    rows = [row if number % 2 else {**row, "image": None, "answer": "red"} for number, row in enumerate(rows)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with serving(looks) as (url, _):
        found = chiasm.audit(url, data)
    real, shuffled = (next(one for one in found.to_json()["scores"] if one["condition"] == c) for c in ("as it is", "image shuffled"))
    assert (real["score"], real["difference"], real["rows"]) == (1.0, None, 60) and shuffled["rows"] == 30
    assert 60 * (shuffled["score"] - real["score"]) == pytest.approx(30 * shuffled["difference"])
    for name in ("score", "difference"):
        low, high = shuffled["interval" if name == "score" else "difference_interval"]
        assert low < shuffled[name] < high
    line = next(line for line in found.lines() if "image shuffled" in line)
    assert line.endswith("over 30 rows") and "over 30 rows" in found.html() and "over all 60 rows" in found.html()
    assert "scores are over all 60 rows, differences to `as it is` over the rows that have the input" in found.lines()


def test_an_address_without_v1_is_told_so(tmp_path: Path):
    data = rows_at(tmp_path, 3)
    with serving(lambda body, number: (404, {}, {})) as (url, _):
        with pytest.raises(ChiasmError, match=f"answered 404.*; most servers answer below /v1: give {url}$"):
            chiasm.audit(url.removesuffix("/v1"), data, name="any")
        with pytest.raises(ChiasmError) as plain:
            chiasm.audit(url, data, name="any")
    assert "answered 404" in str(plain.value) and "below /v1" not in str(plain.value)


def test_the_page_has_everything_in_itself(tmp_path: Path):
    with serving(looks) as (url, _):
        page = chiasm.audit(url, rows_at(tmp_path, 24)).html()
    assert "<script" not in page and "src=" not in page and "uses <code>image</code>" in page and "image shuffled" in page
