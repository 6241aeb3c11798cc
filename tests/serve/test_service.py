"""Keys, health, figures, pages: what surrounds the answers."""

from __future__ import annotations

import ast
import base64
import json
import logging
import re
import socket
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from tiny_server import DIALOGUE, WORDS, Answer, Client, audio, clip, image, png, running, tiny_run, wait_for

import chiasm.serve
from chiasm.serve.app import make_app, make_routes
from chiasm.serve.engine import Engine
from chiasm.serve.limits import OPEN_PATHS
from chiasm.serve.protocol import TimedProtocol
from chiasm.serve.server import Server, Settings, load_into, read_keys, stopping
from chiasm.serve.service import Service
from chiasm.types import ChiasmError

KEYS = ("schlüssel-鍵".encode(), b"plain-key")
PACKAGE = Path(chiasm.serve.__file__).parent


def bearer(key: bytes) -> dict[str, str]:
    return {"authorization": b"Bearer ".decode() + key.decode("latin-1")}  # the bytes as they are


# ---- keys


def test_every_route_but_one_wants_the_key(run):
    with running(run, keys=KEYS) as client:
        paths = [
            (method, re.sub(r"\{[^}]*\}", "x", route.path))
            for route in all_routes(make_routes(client.service))
            for method in sorted(getattr(route, "methods", None) or {"GET"})
        ]
        assert len(paths) > 10
        for method, path in [*paths, ("GET", "/nothing"), ("POST", "/health/live/"), ("GET", "//health/live"), ("GET", "/health/live%2f")]:
            found = client.request(method, path, b"{}" if method == "POST" else None, {"content-type": "application/json"})
            if path in OPEN_PATHS:
                assert found.status in (200, 405)
            else:
                assert found.status == 401 and (method == "HEAD" or found.error["type"] == "authentication_error"), path
        for key in KEYS:
            assert client.get("/v1/models", **bearer(key)).status == 200
            password = base64.b64encode(b"anyone:" + key).decode()
            assert client.get("/", authorization=f"Basic {password}").status == 200
        assert client.get("/", accept="text/html").headers["www-authenticate"].startswith("Basic")
        assert client.chat(WORDS[0], headers=bearer(KEYS[1])).status == 200


def all_routes(app: object) -> list:
    """Every route of an application, those of included routers too."""
    found = []
    for route in getattr(app, "routes", []):
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        found += [route] if hasattr(route, "path") and hasattr(route, "endpoint") else all_routes(inner)
    return found


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer plain-ke",
        "Bearer plain-key2",
        "plain-key",
        "Basic !",
        "Basic cGxhaW4ta2V5",
        "Token plain-key",
    ],
)
def test_a_wrong_key_is_refused(run, value):
    with running(run, keys=KEYS) as client:
        assert client.get("/v1/models", authorization=value).error["code"] == "invalid_api_key"


def test_no_comparison_but_a_constant_one_touches_a_key():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
                    n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
                }
                compared = names & {"given", "keys", "api_key", "authorization"}
                assert not compared or ("given" in compared and file.name != "limits.py"), f"{file}:{node.lineno}"
    assert "hmac.compare_digest" in (PACKAGE / "limits.py").read_text()


def test_a_key_is_never_logged(run, caplog):
    caplog.set_level(logging.DEBUG)
    with running(run, keys=KEYS) as client:
        for key in (*KEYS, b"wrong-secret"):
            client.get("/v1/models", **bearer(key))
            client.chat(WORDS[0], image(b"broken"), headers=bearer(key))
    assert "plain-key" not in caplog.text and "schl" not in caplog.text and "wrong-secret" not in caplog.text


def test_key_files(tmp_path):
    file = tmp_path / "key"
    for empty in (b"", b"\n \n", b"\xef\xbb\xbf\n"):
        file.write_bytes(empty)
        with pytest.raises(ChiasmError, match="is empty"):
            read_keys(file)
    file.write_bytes(b"\xef\xbb\xbf" + KEYS[0] + b"\r\n  " + KEYS[1] + b"  \n\n")
    assert read_keys(file) == KEYS


# ---- health


def test_answers_go_out_at_once(run, monkeypatch):
    """Where TCP collects small pieces, every body waits for the other side to acknowledge the head."""
    seen = []
    made = TimedProtocol.connection_made

    def watched(protocol, transport):
        made(protocol, transport)
        seen.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(TimedProtocol, "connection_made", watched)
    with running(run) as client:
        assert client.get("/health/live").status == 200
    assert seen and all(seen)


def test_a_model_that_cannot_be_run_ends_the_server(run, monkeypatch):
    def broken(engine: Engine) -> None:
        raise FloatingPointError("no numbers")

    monkeypatch.setattr(Engine, "_warm_up", broken)
    shared = Service(run.folder)
    server = SimpleNamespace(should_exit=False, pause=threading.Event(), port=0)
    load_into(shared, Settings(run.folder, compile=True), server, lambda *said: pytest.fail("it greeted"))
    assert server.should_exit and shared.state == "failed"
    assert re.search(r"the model cannot be run: FloatingPointError: no numbers; serve it without --compile", shared.failed)


def test_an_index_that_another_model_made_ends_the_server_before_the_model_is_loaded(run, indexed, tmp_path, monkeypatch):
    other = tiny_run(tmp_path / "other", **DIALOGUE)
    monkeypatch.setattr("chiasm.serve.server.load", lambda folder: pytest.fail("it loaded the model"))
    shared, server = Service(other.folder), SimpleNamespace(should_exit=False, pause=threading.Event(), port=0)
    load_into(shared, Settings(other.folder, index=indexed / "index"), server, lambda *said: pytest.fail("it greeted"))
    assert server.should_exit and shared.state == "failed"
    assert "made by another model" in shared.failed and str(other.folder) in shared.failed


def test_a_program_is_told_where_the_server_is(run, indexed):
    shared, server = Service(run.folder), SimpleNamespace(should_exit=False, pause=threading.Event(), port=8123)
    told: list[tuple[dict, list[str]]] = []
    load_into(shared, Settings(run.folder, "::", index=indexed / "index"), server, lambda *said: told.append(said))
    shared.engine.stop()
    ((where, lines),) = told
    assert where == {"host": "::", "port": 8123, "url": "http://127.0.0.1:8123/v1"} and where["url"] in lines[0]
    assert shared.index is not None


def test_what_is_said_when_it_stops():
    found = [stopping(requests) for requests in range(3)]
    assert found[0] == "stopping" and "1 request is being" in found[1] and "2 requests are being" in found[2]


def test_health_follows_the_model(run):
    shared = Service(run.folder)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = Server(uvicorn.Config(make_app(shared), lifespan="off", log_config=None, access_log=False), shared)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        client = Client(sock.getsockname()[1], shared, server)
        wait_for(lambda: server.started)

        def health() -> tuple[int, int, str]:
            ready = client.get("/health/ready")
            assert client.get("/health").status == ready.status
            return client.get("/health/live").status, ready.status, ready.json["status"]

        assert health() == (200, 503, "loading")
        assert client.chat(WORDS[0]).error["code"] == "loading" and client.get("/v1/models").status == 503
        shared.run, shared.engine = run, Engine(run)
        assert health() == (200, 503, "loading")  # the warm-up has not passed
        assert client.chat(WORDS[0]).status == 503
        shared.engine.start()
        wait_for(lambda: shared.engine.ready)
        assert health() == (200, 200, "ready")
        assert client.chat(WORDS[0]).status == 200
        shared.draining = True
        assert health() == (200, 503, "draining")
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        shared.engine.stop()


# ---- figures


def figures(client: Client) -> dict[str, float]:
    lines = client.get("/metrics").body.decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def test_figures_are_what_was_answered(run):
    with running(run) as client:
        answers: list[tuple[str, str, Answer]] = []

        def note(method: str, route: str, found: Answer) -> Answer:
            answers.append((method, route, found))
            return found

        chat = "/v1/chat/completions"
        for number in range(5):
            note("POST", chat, client.chat(WORDS[number % 3], image(png(number)), max_tokens=1 + number))
        note("POST", chat, client.chat(WORDS[0], n=3, temperature=1.0))
        streamed = note("POST", chat, client.chat(WORDS[0], max_tokens=9, stream=True, stream_options={"include_usage": True}))
        note("POST", chat, client.chat(WORDS[0], audio(clip()), task="kind"))
        note("POST", chat, client.chat(WORDS[0], n=9))
        note("POST", chat, client.post(chat, b"[" * 100))
        note("GET", "/v1/models", client.get("/v1/models"))
        note("GET", "other", client.get("/nothing"))
        note("GET", "/health/ready", client.get("/health/ready"))
        shown = figures(client)
        counted = Counter((method, route, one.status) for method, route, one in answers)
        for (method, route, status), times in counted.items():
            assert shown[f'chiasm_http_requests_total{{method="{method}",route="{route}",status="{status}"}}'] == times
        total = sum(value for name, value in shown.items() if name.startswith("chiasm_http_requests_total"))
        assert total == len(answers)
        usages = [one.json["usage"] for _, route, one in answers if route == chat and one.status == 200 and one is not streamed]
        usages.append(streamed.events[-1]["usage"])
        assert shown["chiasm_prompt_tokens_total"] == sum(usage["prompt_tokens"] for usage in usages)
        assert shown["chiasm_completion_tokens_total"] == sum(usage["completion_tokens"] for usage in usages)
        reasons = Counter(
            c["finish_reason"]
            for _, r, one in answers
            if r == chat and one.status == 200 and one is not streamed
            for c in one.json["choices"]
        )
        reasons.update(c["finish_reason"] for e in streamed.events for c in e["choices"] if c["finish_reason"])
        assert {name: shown[f'chiasm_answers_total{{reason="{name}"}}'] for name in reasons} == reasons
        assert shown['chiasm_http_request_seconds_count{route="/v1/models"}'] == 1
        assert shown['chiasm_http_request_seconds_bucket{route="/v1/models",le="+Inf"}'] == 1
        assert shown["chiasm_ready"] == 1 and shown["chiasm_waiting"] == 0
        assert shown["chiasm_engine_requests_total"] == 5 + 3 + 1 + 1


# ---- what it says of itself


def test_models_says_what_the_run_reads(run, client):
    entry = client.get("/v1/models").json["data"][0]
    assert entry == client.get("/v1/models/tiny").json
    assert entry["id"] == "tiny" and entry["object"] == "model"
    assert entry["inputs"] == {name: spec.modality for name, spec in run.recipe.inputs.items()}
    assert entry["media"] == {"image": ["image"], "audio": ["audio"], "video": ["video"]} and entry["texts"] == ["question"]
    assert entry["tasks"]["answer"] == {
        "type": "generate",
        "reads": ["question", "image", "audio", "video"],
        "writes": True,
        "history": False,
    }
    assert entry["tasks"]["kind"]["labels"] == ["no", "yes"]
    assert (entry["index"], entry["report"], entry["history"]) == (False, True, False)


def test_pages_come_from_here_alone(client):
    for path in ("/", "/docs", "/page/docs.js", "/page/docs.css", "/v1/report"):
        found = client.get(path)
        assert found.status == 200, path
        words = found.body.decode()
        assert not re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//|cdn""", words), path
        if found.headers["content-type"].startswith("text/html"):
            assert "default-src 'self'" in found.headers["content-security-policy"]


def test_the_description_is_whole(client):
    api = client.get("/openapi.json").json
    assert api["openapi"].startswith("3.1")
    assert {"/v1/chat/completions", "/v1/models", "/health/live", "/health/ready", "/metrics"} <= set(api["paths"])
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(api)))
    assert named <= set(api["components"]["schemas"])
    chat = api["components"]["schemas"]["ChatRequest"]
    assert {"messages", "model", "stream", "temperature", "task", "inputs"} <= set(chat["properties"])
