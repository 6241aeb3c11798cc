"""Every case of `bad_inputs` that a request can hold, among good requests: each gets its own outcome, and the good ones notice nothing."""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_server import RECIPE, WORDS, Answer, Client, audio, clip, image, moving, png, running, slowed, text, tiny_run, video

sys.path.insert(0, str(Path(__file__).parents[1]))
from bad_inputs import OK, Cannot, Case, cases

AT_ONCE = 12  # requests; fewer than may wait
MEDIA = {"image": image, "audio": audio, "video": video}
SAYS_ITSELF = ("not_json", "string_type", "model_attributes_type")  # what is no request at all has its place and the parser's words
WHOLE = {"T6 200,000 characters": "messages", "X4 nothing at all": "messages"}  # about no one part


def good(number: int) -> tuple[Any, ...]:
    return (WORDS[number % 3], *[(image(png(number)),), (audio(clip(number)),), (image(png(number)), video(moving(number)))][number % 3])


def content_of(one: Case) -> list[dict[str, Any]]:
    """A question and a picture with the case's parts in place of its own."""
    parts = {"question": WORDS[0], "image": png(), **one.parts}
    found = [] if parts["question"] is None else [text(parts["question"])]
    for kind in MEDIA:
        given = parts.get(kind)
        found += [part_of(kind, value) for value in (given if isinstance(given, list) else [given]) if value is not None]
    return found or [text("")]


def part_of(kind: str, value: bytes | str) -> dict[str, Any]:
    """Data as they should be sent, or a path or an address where data should be."""
    part = MEDIA[kind](value if isinstance(value, bytes) else b"")
    if isinstance(value, str):
        part[part["type"]]["data" if kind == "audio" else "url"] = value
    return part


def asked(client: Client, one: Case, **settings: Any) -> Answer:
    if one.record:
        return client.post("/v1/chat/completions", one.body)
    return client.chat(*content_of(one), **settings)


def place_of(one: Case) -> str:
    """The part of the message that the case is about."""
    kinds = [part["type"].partition("_")[0] for part in content_of(one)]
    return f"messages.0.content.{kinds.index({'question': 'text', 'audio': 'input'}.get(one.column, one.column))}"


def outcome_of(found: Answer) -> str:
    return OK if found.status == 200 else found.error["code"] if found.status == 400 else f"status {found.status}"


def unclear(one: Case, found: Answer) -> str:
    """What is wrong with an error besides its code; empty where it names the part that is bad and says what helps."""
    message, param, kind = (found.error[key] for key in ("message", "param", "type"))
    if kind != "invalid_request_error" or "\n" in message or re.search("Traceback|object at 0x", message):
        return f"{kind}: {message}"
    if one.server not in SAYS_ITSELF and not re.search(r"; \w", message):
        return f"does not say what helps: {message}"
    place = "" if one.record or one.server == "not_json" else WHOLE.get(one.name) or place_of(one)
    return f"is about {place}, not {param}" if place and not f"{param}.".startswith(f"{place}.") else ""


def test_no_bad_request_reaches_its_neighbours(run, caplog):
    """Good texts, and good labels in micro-batches, between all bad requests; one server, in this process."""
    sent = [one for one in cases() if not isinstance(one.server, Cannot)]
    with running(run) as client:
        alone = {number: client.chat(*good(number)).text for number in range(6)}
        sure = {number: client.chat(*good(number), task="kind").json["chiasm"]["score"] for number in range(6)}
        with slowed(run, 0.002), ThreadPoolExecutor(AT_ONCE) as pool:
            futures: list[tuple[Future[Answer], Future[Answer]]] = []
            for number, one in enumerate(sent):
                writes, judges = {}, {"task": "kind"}
                mine, other = (writes, judges) if number % 2 else (judges, writes)
                futures.append((pool.submit(client.chat, *good(number % 6), **mine), pool.submit(asked, client, one, **other)))
        answers = [one.result() for one, _ in futures]
        assert [one.text for one in answers[1::2]] == [alone[number % 6] for number in range(1, len(sent), 2)]
        scores = [one.json["chiasm"]["score"] for one in answers[::2]]
        assert scores == pytest.approx([sure[number % 6] for number in range(0, len(sent), 2)], abs=1e-5)
        found = {one.name: bad.result() for one, (_, bad) in zip(sent, futures, strict=True)}
        assert {name: outcome_of(bad) for name, bad in found.items()} == {one.name: one.server for one in sent}
        assert not [f"{one.name}: {problem}" for one in sent if one.server != OK and (problem := unclear(one, found[one.name]))]
        assert any(size > 1 for size in client.service.engine.counters.batch_sizes)  # they did meet
        assert client.get("/health/ready").status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_several_pictures_the_bad_one_is_named(tmp_path, place):
    """A run whose prompt takes three pictures: the error says which part of the message holds the one that cannot be used."""
    tasks = {"answer": {**RECIPE["tasks"]["answer"], "prompt": "{image} {image} {image} {question} answer :"}}
    inputs = {name: RECIPE["inputs"][name] for name in ("image", "question")}
    encoders = {"image": RECIPE["encoders"]["image"]}
    with running(tiny_run(tmp_path / "three", inputs=inputs, encoders=encoders, tasks=tasks)) as client:
        pictures = [png(number) if number != place else png()[:60] for number in range(3)]
        found = client.chat(*itertools.chain.from_iterable((image(picture), "and") for picture in pictures))
        assert (found.status, found.error["code"]) == (400, "truncated")
        assert found.error["param"] == f"messages.0.content.{2 * place}" and f"item {place + 1} of 3" in found.error["message"]


def test_a_bad_row_of_many_is_named(client):
    """`/v1/classify` takes rows: the error says which."""
    rows = [[text(WORDS[0]), image(png(number))] for number in range(3)]
    rows[1][1] = image(png()[:60])
    found = client.post("/v1/classify", {"model": "tiny", "input": rows})
    assert found.status == 400 and found.error["param"] == "input.1.1", json.dumps(found.error)
