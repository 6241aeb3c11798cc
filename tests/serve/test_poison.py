"""Every case of `bad_inputs` that a request can hold, among good requests: each gets its own outcome, and the good ones what they get alone."""

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
from tiny_server import WORDS, Answer, Client, audio, clip, image, moving, png, running, slowed, text, video

sys.path.insert(0, str(Path(__file__).parents[1]))
from bad_inputs import OK, Cannot, Case, cases

AT_ONCE = 12  # requests; fewer than may wait
MEDIA = {"image": image, "audio": audio, "video": video}
SAYS_ITSELF = ("not_json", "string_type", "model_attributes_type")  # what is no request at all has its place and the parser's words
WHOLE = {"T6 200,000 characters": "messages", "X4 nothing at all": "messages"}  # about no one part


def good(number: int) -> tuple[Any, ...]:
    return (WORDS[number % 3], *[(image(png(number)),), (audio(clip(number)),), (image(png(number)), video(moving(number)))][number % 3])


def content_of(one: Case) -> list[dict[str, Any]]:
    """A question and a picture with the case's parts in place of its own; an address stands where data should."""
    parts = {"question": WORDS[0], "image": png(), **one.parts}
    found = [] if parts["question"] is None else [text(parts["question"])]
    for kind, make in MEDIA.items():
        for value in (listed := parts.get(kind)) if isinstance(listed, list) else [listed]:
            if isinstance(value, str):
                where = {"data": value, "format": "wav"} if kind == "audio" else {"url": value}
                found.append(
                    {"type": "input_audio", "input_audio": where} if kind == "audio" else {"type": f"{kind}_url", f"{kind}_url": where}
                )
            elif value is not None:
                found.append(make(value))
    return found or [text("")]


def asked(client: Client, one: Case, **settings: Any) -> Answer:
    if one.record:
        return client.post("/v1/chat/completions", one.body)
    return client.chat(*content_of(one), **settings)


def place_of(one: Case) -> str:
    """The part of the message that the case is about."""
    kinds = [part["type"].partition("_")[0] for part in content_of(one)]
    return f"messages.0.content.{kinds.index({'question': 'text', 'audio': 'input'}.get(one.column, one.column))}"


def check(one: Case, found: Answer) -> None:
    if one.server == OK:
        assert found.status == 200, (one.name, found.body)
        return
    assert (found.status, found.error["code"], found.error["type"]) == (400, one.server, "invalid_request_error"), (one.name, found.body)
    message, param = found.error["message"], found.error["param"]
    assert "\n" not in message and (re.search(r"; \w", message) or one.server in SAYS_ITSELF), (one.name, message)
    assert "Traceback" not in message and "object at 0x" not in message, (one.name, message)
    if one.parts and one.server != "not_json":
        place = WHOLE.get(one.name) or place_of(one)
        assert param == place or param.startswith(f"{place}."), (one.name, param)


def test_no_bad_request_reaches_its_neighbours(run, caplog):
    """Good texts, and good labels in micro-batches, around every bad request; all of them in one server, in one process."""
    sent = [one for one in cases() if not isinstance(one.server, Cannot)]
    with running(run) as client:
        alone = {number: client.chat(*good(number)).text for number in range(6)}
        sure = {number: client.chat(*good(number), task="kind").json["chiasm"]["score"] for number in range(6)}
        with slowed(run, 0.002), ThreadPoolExecutor(AT_ONCE) as pool:
            futures: list[tuple[Future[Answer], ...]] = []
            for number, one in enumerate(sent):
                settings = {"task": "kind"} if number % 2 else {}
                before = pool.submit(client.chat, *good(number % 6))
                bad = pool.submit(asked, client, one, **settings)
                futures.append((before, bad, pool.submit(client.chat, *good(number % 6), task="kind")))
        for number, (one, (written, bad, judged)) in enumerate(zip(sent, futures, strict=True)):
            assert written.result().text == alone[number % 6], one.name
            assert judged.result().json["chiasm"]["score"] == pytest.approx(sure[number % 6], abs=1e-5), one.name
            check(one, bad.result())
        assert {size for size in client.service.engine.counters.batch_sizes if size > 1}  # they did meet
        assert client.get("/health/ready").status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_several_pictures_the_bad_one_is_named(tmp_path, place):
    """A run whose prompt takes three pictures: the error says which part of the message holds the one that cannot be used."""
    from tiny_server import RECIPE, tiny_run

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
