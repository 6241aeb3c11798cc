"""A small untrained run that sees, hears and reads, in a folder as training leaves it, and a server around it in this process."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
import uvicorn
from PIL import Image

import chiasm
from chiasm.assemble import build
from chiasm.model_files import save_model
from chiasm.recipe import load_recipe
from chiasm.serve.app import make_app
from chiasm.serve.engine import Engine
from chiasm.serve.limits import Limits
from chiasm.serve.protocol import TimedProtocol
from chiasm.serve.server import Server
from chiasm.serve.service import Service
from chiasm.types import Film, Sample

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
from tiny_models import GPT2, VIT, WORDS, film, picture, sound

SMALL = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
GREY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "inputs": {
        "image": {"modality": "image", "size": 16},
        "audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 0.5},
        "video": {"modality": "video", "size": 16, "frames": 2},
        "question": "text",
    },
    "encoders": {"image": {**VIT, **GREY}, "audio": {**SMALL, "tokens": 1}, "video": {**SMALL, "first_pooling": False, "grid": 2}},
    "backbone": {**GPT2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "tokenizer": "words"},
    "fusion": "early",
    "tasks": {
        "answer": {"type": "generate", "prompt": "{question} answer :", "target": "{answer}", "generation": {"max_new_tokens": 4}},
        "kind": {"type": "classify", "target": "answer", "dropout": 0.0},
        "align": {"type": "contrast", "between": ["image", "answer"]},
    },
    "train": {"precision": "fp32", "device": "cpu"},
}
DIALOGUE = {
    "name": "dialogue",
    "inputs": {"image": {"modality": "image", "size": 16}, "question": "text"},
    "encoders": {"image": {**VIT, **GREY}},
    "tasks": {
        "answer": {
            "type": "generate",
            "prompt": "{history} {image} question : {question} answer :",
            "repeat": {"history": "question : {question} answer : {answer} ."},
            "target": "{answer}",
            "generation": {"max_new_tokens": 4},
        }
    },
}


def tiny_run(folder: Path, **changes: Any) -> chiasm.Run:
    """The run of RECIPE with changes, untrained; what it answers is noise, but always the same noise."""
    recipe = {**RECIPE, **changes}
    torch.manual_seed(5)
    modality = {"image": picture, "audio": sound, "video": lambda seed: Film(film(seed), [0.0, 0.25, 0.5, 0.75])}
    rows = [{name: modality[name](i) for name in recipe["inputs"] if name in modality} for i in range(4)]
    samples = [Sample(f"row{i}", {**row, "question": WORDS[i % 3], "answer": ["yes", "no"][i % 2]}) for i, row in enumerate(rows)]
    model, processor = build(load_recipe(recipe), samples, [*WORDS, "question : answer ."])
    with torch.no_grad():
        model.get_input_embeddings().weight[processor.end_id] = 0.0  # so that it goes on writing as long as it may
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, processor, folder / "model")
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    (folder / "report.html").write_text("<!doctype html><title>report</title>", encoding="utf-8")
    return chiasm.load(folder)


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, which has OpenAI's form."""
        assert set(self.json) == {"error"} and set(self.json["error"]) == {"message", "type", "param", "code"}, self.body[:500]
        return self.json["error"]

    @property
    def text(self) -> str:
        assert self.status == 200, self.body[:500]
        return self.json["choices"][0]["message"]["content"]

    @property
    def events(self) -> list[Any]:
        """The events of a stream, without its last line."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        assert lines[-1] == "[DONE]", lines[-1]
        return [json.loads(line) for line in lines[:-1]]


class Client(NamedTuple):
    """Asks the server over a connection of its own each time."""

    port: int
    service: Service
    server: Any

    def request(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] = {}) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, {"content-type": "application/json", **headers})

    def chat(self, *content: Any, model: str = "tiny", headers: Mapping[str, str] = {}, **settings: Any) -> Answer:
        """One user message, of texts and parts."""
        parts = [text(part) if isinstance(part, str) else part for part in content]
        body = {"model": model, "messages": [{"role": "user", "content": parts}], **settings}
        return self.post("/v1/chat/completions", body, headers)


@contextlib.contextmanager
def running(
    run: chiasm.Run, *, keys: tuple[bytes, ...] = (), limits: Limits | None = None, deadline: float = 10.0, **engine: Any
) -> Iterator[Client]:
    """A server for `run` on a free port, ready."""
    shared = Service(run.folder, limits=limits or Limits())
    protocol = type("Protocol", (TimedProtocol,), {"deadline": deadline})
    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn.Config(make_app(shared, keys=keys), http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
        server = Server(config, shared)
        port = sock.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        shared.run, shared.engine = run, Engine(run, **engine).start()
        wait_for(lambda: shared.state == "ready" and server.started)
        try:
            yield Client(port, shared, server)
        finally:
            server.should_exit = True
            thread.join(30)
            shared.engine.stop()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Until it holds; fails after `seconds`, which is only there so that a broken server does not hang the tests."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


@contextlib.contextmanager
def slowed(run: chiasm.Run, seconds: float) -> Iterator[list[float]]:
    """Every forward pass of the backbone takes `seconds` longer; gives the times at which they began."""
    steps: list[float] = []

    def wait(*_: Any) -> None:
        steps.append(time.monotonic())
        time.sleep(seconds)

    layer = next(m for m in run.model.modules() if type(m).__name__ == "GPT2Block")
    handle = layer.register_forward_pre_hook(wait)
    try:
        yield steps
    finally:
        handle.remove()


# ---- parts of messages


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": uri(data)}}


def audio(data: bytes, format: str | None = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": format}}


def video(data: bytes) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": uri(data, "video/mp4")}}


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "PNG")
    return file.getvalue()


def clip(seed: int = 0, format: str = "WAV", seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    samples = sound(seed)
    soundfile.write(file, samples.repeat(1 + int(8000 * seconds) // len(samples))[: int(8000 * seconds)], 8000, format=format)
    return file.getvalue()


def moving(seed: int = 0) -> bytes:
    """An animated GIF of four frames."""
    file = io.BytesIO()
    frames = [Image.fromarray(frame) for frame in film(seed)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=250, loop=0)
    return file.getvalue()
