"""The official OpenAI client, as its users call it."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_server import WORDS, audio, clip, image, png, running, slowed

from chiasm.retrieval.embedding import embed

openai = pytest.importorskip("openai", reason="needs openai, as in the extra dev")


@pytest.fixture
def official(client):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0) as found:
        yield found


def asked(*content):
    return [{"role": "user", "content": [{"type": "text", "text": WORDS[0]}, *content]}]


def test_a_chat_with_a_picture_and_a_sound(run, official):
    messages = asked(image(png(1)), audio(clip(1)))
    found = official.chat.completions.create(model="tiny", messages=messages)
    assert found.choices[0].message.content == run.answer(question=WORDS[0], image=png(1), audio=clip(1))
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.chiasm["task"] == "answer"
    chosen = official.chat.completions.create(model="tiny", messages=messages, extra_body={"task": "kind"})
    assert chosen.choices[0].message.content in ("yes", "no")


def test_streaming(official):
    settings = {"model": "tiny", "messages": asked(image(png(1))), "max_completion_tokens": 12}
    whole = official.chat.completions.create(**settings)
    pieces = list(official.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert pieces[-1].usage == whole.usage
    with official.chat.completions.stream(**settings) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta") == whole.choices[0].message.content


def test_models(official):
    assert [model.id for model in official.models.list()] == ["tiny"]
    assert official.models.retrieve("tiny").inputs["image"] == "image"


def test_errors_are_its_own(run, official):
    with pytest.raises(openai.BadRequestError) as bad:
        official.chat.completions.create(model="tiny", messages=asked(), temperature=9)
    assert bad.value.param == "temperature" and bad.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        official.chat.completions.create(model="gpt-4", messages=asked())
    assert missing.value.code == "model_not_found"
    with running(run, keys=(b"right",), slots=1, waiting=1) as other:
        with (
            openai.OpenAI(base_url=f"http://127.0.0.1:{other.port}/v1", api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        with openai.OpenAI(base_url=f"http://127.0.0.1:{other.port}/v1", api_key="right", max_retries=0) as known:
            assert known.models.list().data[0].id == "tiny"

            def tries(_):
                try:
                    return known.chat.completions.create(model="tiny", messages=asked(), max_tokens=8).object
                except openai.RateLimitError as error:
                    return error.type

            with slowed(run, 0.03), ThreadPoolExecutor(8) as pool:
                assert set(pool.map(tries, range(16))) == {"chat.completion", "rate_limit_error"}


def test_a_picture_as_the_documentation_of_openai_sends_it(official):
    encoded = base64.b64encode(png(2)).decode("utf-8")
    found = official.chat.completions.create(
        model="tiny",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is in this image?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}", "detail": "high"}},
                ],
            }
        ],
        max_tokens=3,
    )
    assert isinstance(found.choices[0].message.content, str)


def test_embeddings(run, official):
    found = official.embeddings.create(model="tiny", input=["yes", "no", "yes"])
    assert [row.index for row in found.data] == [0, 1, 2] and found.usage.total_tokens == 3
    vectors = [row.embedding for row in found.data]
    assert vectors[0] == pytest.approx(vectors[2]) and vectors[0] != pytest.approx(vectors[1])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors[0] == pytest.approx(embed(run, [{"text": "yes"}])[0].tolist(), abs=1e-6)
    plain = official.embeddings.create(model="tiny", input="yes", encoding_format="float").data[0].embedding
    assert plain == pytest.approx(vectors[0], abs=1e-6)
    with pytest.raises(openai.BadRequestError):
        official.embeddings.create(model="tiny", input=[[1, 2, 3]])
