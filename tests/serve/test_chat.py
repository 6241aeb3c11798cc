"""`/v1/chat/completions`: what comes back is what `Run.answer` says, in OpenAI's form, at once or in pieces."""

from __future__ import annotations

import pytest
from tiny_server import DIALOGUE, WORDS, audio, clip, image, moving, png, running, text, tiny_run, video


def test_an_answer_is_the_runs_own(run, client):
    found = client.chat(WORDS[0], image(png(1)), audio(clip(2)), video(moving(3)))
    assert found.text == run.answer(question=WORDS[0], image=png(1), audio=clip(2), video=moving(3))
    assert found.json["object"] == "chat.completion" and found.json["model"] == "tiny"
    assert found.json["choices"][0]["finish_reason"] in ("stop", "length")
    usage = found.json["usage"]
    assert usage["prompt_tokens"] > 0 and usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert found.json["chiasm"] == {"task": "answer", "score": None, "probabilities": None, "warnings": [], "warning_codes": []}


def test_earlier_turns_are_the_history_of_a_model_that_reads_one(tmp_path):
    talks = tiny_run(tmp_path, **DIALOGUE)
    turns = [("user", [text(WORDS[1]), image(png(1))]), ("assistant", "no"), ("user", WORDS[0])]
    history = [{"question": WORDS[1], "answer": "no"}]
    with running(talks) as other:
        body = {"model": "dialogue", "messages": [{"role": role, "content": content} for role, content in turns], "max_tokens": 12}
        found = other.post("/v1/chat/completions", body)
        assert found.json["chiasm"]["warnings"] == []
        alone = other.chat(WORDS[0], image(png(1)), model="dialogue").json["usage"]
        assert found.json["usage"]["prompt_tokens"] == alone["prompt_tokens"] + len(f"question : {WORDS[1]} answer : no .".split())
        short = other.post("/v1/chat/completions", {**body, "max_tokens": 4})
        assert short.text == talks.answer(question=WORDS[0], image=png(1), history=history)
        assert other.get("/v1/models").json["data"][0]["history"] is True


@pytest.mark.parametrize("format", ["WAV", "MP3", "FLAC"])
def test_sounds_in_every_form(run, client, format):
    heard = clip(1, format)
    assert client.chat(WORDS[1], audio(heard, format.lower())).text == run.answer(question=WORDS[1], audio=heard)


def test_a_stream_says_the_same_in_pieces(client):
    parts = [WORDS[0], image(png(1))]
    whole = client.chat(*parts, max_tokens=12).json
    events = client.chat(*parts, max_tokens=12, stream=True, stream_options={"include_usage": True}).events
    assert "".join(c["delta"].get("content", "") for e in events for c in e["choices"]) == whole["choices"][0]["message"]["content"]
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["finish_reason"] for e in events for c in e["choices"]][-1] == whole["choices"][0]["finish_reason"]
    assert events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1
    assert all("usage" not in event for event in client.chat(*parts, stream=True).events)


def test_what_does_not_write_streams_its_answer_in_one_piece(run, client):
    events = client.chat(WORDS[0], image(png(1)), task="kind", stream=True).events
    label = run.answer(question=WORDS[0], image=png(1), task="kind")
    assert [c["delta"].get("content") for e in events for c in e["choices"]] == [label, None]
    found = client.chat(WORDS[0], image(png(1)), task="kind").json
    assert found["choices"][0]["message"]["content"] == label
    assert found["chiasm"]["probabilities"][label] == pytest.approx(found["chiasm"]["score"])


def test_seeds_and_several_answers(client):
    settings = {"temperature": 2.0, "max_tokens": 12, "n": 3}
    first = client.chat(WORDS[2], **settings, seed=7).json["choices"]
    assert first == client.chat(WORDS[2], **settings, seed=7).json["choices"]
    assert [choice["index"] for choice in first] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in first}) > 1
    streamed = client.chat(WORDS[2], **settings, seed=7, stream=True).events
    for choice in first:
        own = [c["delta"].get("content", "") for e in streamed for c in e["choices"] if c["index"] == choice["index"]]
        assert "".join(own) == choice["message"]["content"]


def test_stop_and_length(client):
    whole = client.chat(WORDS[2], max_tokens=12).text
    word = whole.split()[2]
    cut = client.chat(WORDS[2], max_tokens=12, stop=[word, "never said"]).json["choices"][0]
    assert cut["message"]["content"].strip() == whole[: whole.index(word)].strip() and cut["finish_reason"] == "stop"
    short = client.chat(WORDS[2], max_completion_tokens=1).json
    assert short["usage"]["completion_tokens"] == 1 and short["choices"][0]["finish_reason"] == "length"


def test_a_table_comes_by_name_and_a_picture_does_not(client):
    assert client.chat(image(png(1)), inputs={"question": WORDS[0]}).text == client.chat(image(png(1)), WORDS[0]).text
    for inputs in ({"image": "/etc/passwd"}, {"video": [1]}, {"question": 3}):
        assert client.chat(WORDS[0], inputs=inputs).error["param"] == f"inputs.{next(iter(inputs))}"
    assert "did you mean 'question'" in client.chat(image(png(1)), inputs={"questoin": "a"}).error["message"]


def test_what_the_run_does_not_read_is_said(tmp_path, client):
    only = tiny_run(tmp_path, **{**DIALOGUE, "name": "sees"})
    with running(only) as other:
        assert other.chat(WORDS[0], image(png()), model="sees").status == 200
        heard = other.chat(WORDS[0], audio(clip()), model="sees").error
        assert heard["message"] == "this run reads no audio; it reads: image, question (text)" and heard["type"] == "invalid_request_error"
    assert client.chat(WORDS[0], model="other").error["code"] == "model_not_found"
    assert client.chat(WORDS[0], model="other").status == 404
    assert "did you mean 'answer'" in client.chat(WORDS[0], task="answr").error["message"]


def test_turns_that_the_model_does_not_read_are_warned_of(client):
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": WORDS[1]}, {"role": "assistant", "content": "no"}]
    last = {"role": "user", "content": WORDS[0]}
    found = client.post("/v1/chat/completions", {"model": "tiny", "messages": [*turns, last]})
    assert found.text == client.chat(WORDS[0]).text
    missing = [f"no {name} was given; this model reads one" for name in ("image", "audio", "video")]
    assert found.json["chiasm"]["warnings"] == [
        *missing,
        "this model reads one turn only: it was not given 2 earlier message(s) and the system message",
    ]


def test_nothing_to_see_or_hear_is_said_one_input_of_several_is_not(run):
    """A model of several inputs is trained on rows without one or another of them."""
    assert [note.figures["input"] for note in run.notes({"question": WORDS[0]}, task="answer")] == ["image", "audio", "video"]
    assert run.notes({"question": WORDS[0], "audio": clip()}, task="answer") == ()
