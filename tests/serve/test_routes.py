"""Embeddings, classification, search and explanations over HTTP: what the library says, in the same figures."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from tiny_server import WORDS, audio, clip, image, moving, png, running, text, video

import chiasm
from chiasm.retrieval.classify import classify
from chiasm.retrieval.embedding import embed
from chiasm.retrieval.index import Index


def test_embeddings_of_words_and_pictures(run, client):
    body = {"model": "tiny", "input": ["yes", image(png(1)), [text("no")]]}
    found = client.post("/v1/embeddings", body).json
    wanted = embed(run, [{"text": "yes"}, {"image": png(1)}, {"text": "no"}])
    assert np.array([row["embedding"] for row in found["data"]]) == pytest.approx(wanted, abs=1e-5)
    packed = client.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json["data"]
    assert np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed]) == pytest.approx(wanted, abs=1e-5)
    assert found["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    many = client.post("/v1/embeddings", {"model": "tiny", "input": ["yes"] * 70}).json["data"]
    assert [row["index"] for row in many] == list(range(70))


@pytest.mark.parametrize(
    "given",
    [[], [[]], [[1, 2]], 3, None, "", [image(b"")], [[text("a"), image(png())]], [audio(clip())], ["yes"] * 300, {"type": "image_url"}],
)
def test_what_cannot_be_embedded(client, given):
    found = client.post("/v1/embeddings", {"model": "tiny", "input": given})
    assert found.status == 400 and found.error["message"], found


def test_classify_by_its_own_labels_and_by_any(run, client):
    own = client.post("/v1/classify", {"model": "tiny", "input": [[text(WORDS[0]), image(png(1))], [text(WORDS[1]), image(png(2))]]}).json
    for row, (words, seed) in zip(own["data"], [(WORDS[0], 1), (WORDS[1], 2)], strict=True):
        wanted = run.predict([{"question": words, "image": png(seed)}], task="kind")[0]
        assert row["label"] == wanted.output and row["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)
    body = {"model": "tiny", "input": [image(png(1)), image(png(2))], "labels": ["yes", "no", "red cat"], "template": "a {label} ?"}
    found = client.post("/v1/classify", body).json["data"]
    likely = classify(run, [{"image": png(1)}, {"image": png(2)}], ["yes", "no", "red cat"], template="a {label} ?")
    assert np.array([list(row["probabilities"].values()) for row in found]) == pytest.approx(likely, abs=1e-5)
    for wrong in (
        {"labels": []},
        {"labels": ["a", "a"]},
        {"labels": ["a", "b"], "template": "no place"},
        {"task": "answer"},
        {"task": "x"},
    ):
        assert client.post("/v1/classify", {**body, "labels": None, **wrong}).status == 400


def test_search_finds_a_picture_by_itself(run, indexed):
    with running(run) as client:
        assert client.post("/v1/search", {"model": "tiny", "query": "yes"}).error["code"] == "no_index"
        client.service.index = Index.open(indexed / "index")
        assert client.get("/v1/models/tiny").json["index"] is True
        found = client.post("/v1/search", {"model": "tiny", "query": image(png(2)), "find": "image", "k": 3})
        first = found.json["data"][0]
        assert first["score"] == pytest.approx(1.0, abs=1e-4) and len(found.json["data"]) == 3
        assert str(indexed) not in found.body.decode()
        shown = client.get(first["media"])
        assert shown.body == png(2) and shown.headers["content-type"] == "image/png"
        words = client.post("/v1/search", {"model": "tiny", "query": "yes"}).json["data"]
        assert {hit["modality"] for hit in words} == {"image"}
        for address in ("/v1/media/none.png", "/v1/media/..%2f..%2fetc%2fpasswd", first["media"] + "x"):
            assert client.get(address).status == 404
        for wrong in ({"k": 0}, {"k": 101}, {"find": "smell"}, {"query": ""}, {"query": []}, {"query": [text("a"), text("b")]}):
            assert client.post("/v1/search", {"model": "tiny", "query": "yes", **wrong}).status == 400


def test_explanations(run, client):
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [text(WORDS[0]), image(png(1))]}],
        "task": "kind",
        "level": "modality",
    }
    found = client.post("/v1/explain", body).json
    wanted = chiasm.explain(run, {"question": WORDS[0], "image": png(1)}, task="kind", level="modality").to_json()
    assert found["answer"] == wanted["answer"]
    assert [m["value"] for m in found["modalities"]] == pytest.approx([m["value"] for m in wanted["modalities"]], abs=1e-4)
    page = client.post("/v1/explain", {**body, "format": "html"})
    assert page.headers["content-type"].startswith("text/html") and "http://" not in page.body.decode().replace("http://www.w3.org", "")
    assert found["warnings"] == wanted["warnings"] == []  # a picture is given: there is something to see
    for wrong in ({"level": "word"}, {"target": "never a label"}, {"format": "pdf"}):
        assert client.post("/v1/explain", {**body, **wrong}).status == 400


def test_words_outside_the_vocabulary_are_said(client, run, indexed):
    said = "not in this model's vocabulary: "
    alone = f"{said}你好; 'question' has no other words"
    found = client.chat("你好", image(png(1)), audio(clip(2)), video(moving(3))).json["chiasm"]
    assert found["warnings"] == [alone]
    assert found["warning_codes"] == [{"code": "unknown_words", "input": "question", "words": ["你好"]}]
    last = client.chat("你好", stream=True).events[-1]["chiasm"]
    assert last["warnings"][0] == alone
    vectors = client.post("/v1/embeddings", {"model": "tiny", "input": ["yes", "yes 你好", image(png(1))]}).json
    assert vectors["warnings"] == [f"input.1: {said}你好"]
    body = {"model": "tiny", "input": image(png(1)), "labels": ["yes", "no 你好"]}
    assert client.post("/v1/classify", body).json["warnings"] == [f"{said}你好"]
    assert "warnings" not in client.post("/v1/classify", {**body, "labels": ["yes", "no"]}).json
    error = client.post("/v1/classify", {**body, "labels": ["yes", "你好", "zorblatt"]}).error
    assert error["code"] == "unknown_words" and error["message"].startswith(f"labels: {said}你好, zorblatt")
    learned = client.post("/v1/classify", {"model": "tiny", "input": [[text("what 你好"), image(png(1))]]}).json
    assert learned["warnings"][0] == f"input.0: {said}你好"
    messages = [{"role": "user", "content": [text("what 你好"), image(png(1))]}]
    body = {"model": "tiny", "messages": messages, "task": "answer", "level": "modality"}
    found = client.post("/v1/explain", {**body, "target": "yes 你好"}).json["warnings"]
    assert found.count(f"{said}你好") == 1 and len(found) == 1
    for target, code in (("你好", "unknown_words"), ("", "empty"), (" ", "empty")):
        error = client.post("/v1/explain", {**body, "target": target}).error
        assert error["code"] == code and error["param"] == "target" and error["message"].startswith("target: ")
    with running(run) as other:
        other.service.index = Index.open(indexed / "index")
        assert other.post("/v1/search", {"model": "tiny", "query": "yes 你好"}).json["warnings"] == [f"{said}你好"]
        assert "warnings" not in other.post("/v1/search", {"model": "tiny", "query": "yes"}).json
        error = other.post("/v1/search", {"model": "tiny", "query": "你好"}).error
        assert error["code"] == "unknown_words" and error["param"] == "query"
