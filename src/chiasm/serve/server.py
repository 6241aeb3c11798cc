"""`chiasm serve`: answers on an open port, loads the run behind it, and stops without losing what it has begun."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from chiasm.retrieval.index import Index
from chiasm.run import load, model_folder
from chiasm.serve import errors
from chiasm.serve.app import make_app
from chiasm.serve.engine import Engine
from chiasm.serve.protocol import TimedProtocol
from chiasm.serve.service import Service, log
from chiasm.types import ChiasmError

GRACE = 30  # seconds in which what was begun may end
SETTLE = 0.2  # seconds in which connections that were just accepted have their requests read

Say = Callable[[dict[str, Any], list[str]], None]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is served."""

    folder: Path
    host: str = "127.0.0.1"  # what its socket listens on, for what a person is told
    keys: tuple[bytes, ...] = ()
    index: Path | None = None
    slots: int = 8
    waiting: int = 32
    grace: float = GRACE
    compile: bool = False


def read_keys(file: Path) -> tuple[bytes, ...]:
    """The API keys of a file, one a line. ChiasmError where it holds none, since that would let everyone in."""
    lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    keys = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not keys:
        raise ChiasmError(f"{file}: the API key file is empty; write a key into it, e.g. openssl rand -hex 32 > {file}")
    return keys


def serve(settings: Settings, sock: socket.socket, say: Say, tell: Tell) -> None:
    """Serve on a socket that listens until SIGTERM or Ctrl-C. `say` gets where it is ({host, port, url}) and the lines for a person once it
    is ready, `tell` a line when it is being stopped. Raises ChiasmError where it cannot start."""
    quiet_access_log()
    shared = Service(settings.folder)
    config = uvicorn.Config(
        make_app(shared, keys=settings.keys),
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
        h11_max_incomplete_event_size=64 << 10,
    )
    server = Server(config, shared, tell)
    loader = threading.Thread(target=load_into, args=(shared, settings, server, say), name="chiasm-loader", daemon=True)
    loader.start()
    server.run(sockets=[sock])
    if shared.engine is not None:
        shared.engine.drain(1.0)
        shared.engine.stop()
    if shared.failed is not None:
        raise ChiasmError(shared.failed)


def load_into(shared: Service, settings: Settings, server: Server, say: Say) -> None:
    """Load the run while the port is open already: /health/live says so, everything else waits."""
    try:
        if settings.index is not None:
            shared.index = open_index(settings.index, settings.folder)
        run = load(settings.folder)
        engine = Engine(run, slots=settings.slots, waiting=settings.waiting, compiler="inductor" if settings.compile else "")
        shared.run, shared.engine = run, engine
        engine.start()
        while not (engine.ready or engine.error or server.should_exit):
            server.pause.wait(0.02)
        if engine.error:
            hint = "; serve it without --compile" if settings.compile else ""
            raise ChiasmError(f"{settings.folder}: the model cannot be run: {errors.clean(engine.error)}{hint}")
        if engine.ready:
            address = address_of(settings.host, server.port)
            say({"host": settings.host, "port": server.port, "url": f"{address}/v1"}, greeting(shared, settings, address))
    except ChiasmError as error:
        shared.failed = str(error)
        server.should_exit = True
    except Exception as error:  # noqa: BLE001
        log.error("the run could not be loaded", exc_info=error)
        shared.failed = f"{settings.folder}: could not be loaded: {type(error).__name__}: {error}"
        server.should_exit = True


def open_index(folder: Path, run: Path) -> Index:
    """The index of `chiasm index`; ChiasmError where the folder is none, or another model than the run's made it."""
    found = Index.open(folder)
    if (model_folder(run) / "config.json").is_file():  # otherwise `load` says what is wrong with the run
        found.check_model(run)
    return found


class Server(uvicorn.Server):
    """uvicorn, which on the first SIGTERM finishes what it has and leaves with 0, and on the second leaves at once."""

    def __init__(self, config: uvicorn.Config, shared: Service, tell: Tell = log.info):
        super().__init__(config)
        self.shared, self.tell, self.pause = shared, tell, threading.Event()

    @property
    def port(self) -> int:
        return self.servers[0].sockets[0].getsockname()[1] if getattr(self, "servers", None) else 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        self.shared.draining = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.shared.draining:  # by a signal
            self.tell(stopping(len(self.server_state.tasks)))
        self.shared.draining = True
        for listener in self.servers:
            listener.close()
        await asyncio.sleep(SETTLE)
        await super().shutdown(sockets)


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def quiet_access_log() -> None:
    """Warnings and errors of the server to standard error, with the time; no line per request."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("chiasm.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING)


# ---- what a person is told


def stopping(requests: int) -> str:
    """What is said when a signal stops the server."""
    left = "1 request is" if requests == 1 else f"{requests} requests are"
    return f"stopping: {left} being finished; again to stop at once" if requests else "stopping"


def address_of(host: str, port: int) -> str:
    """Where someone on this machine finds it."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def greeting(shared: Service, settings: Settings, address: str) -> list[str]:
    """Where the server is, what it reads, and a request to begin with."""
    inputs = {name: spec.modality for name, spec in shared.run.recipe.inputs.items()}
    lines = [
        f"serving {shared.name} at {address}/v1 (OpenAI's form)",
        f"page     {address}/    routes {address}/docs    figures {address}/metrics",
        "reads    " + ", ".join(name if name == kind else f"{name} ({kind})" for name, kind in inputs.items()),
    ]
    if not settings.keys and not is_local(settings.host):
        lines.append(f"warning: {settings.host} can be reached from other machines and no API key is asked for; give --api-key-file FILE")
    return [*lines, "", "try:", *(f"  {line}" for line in example(shared, address, bool(settings.keys)))]


def example(shared: Service, address: str, keyed: bool) -> list[str]:
    """A curl command that asks this run something, with its own inputs; for vectors of what it compares, where it does not answer."""
    content: list[str] = []
    files: list[str] = []
    inputs = {name: spec.modality for name, spec in shared.run.recipe.inputs.items()}
    answers = any(task.view == "fused" for task in shared.run.tasks.values())
    columns = set() if answers else {"text" for task in shared.run.tasks.values() if task.columns}
    kinds = {*inputs.values(), *columns}
    for kind, variable, file, part in MEDIA_PARTS:
        if kind in kinds:
            files.append(f"{variable}=$(base64 < {file} | tr -d '\\n')")
            content.append(part)
    if kinds & {"text", "tokens"}:
        content.append('{"type": "text", "text": "what is this ?"}')
    named = ", ".join(f'"{name}": ...' for name in inputs if inputs[name] in ("table", "features"))
    own = f', "inputs": {{{named}}}' if named and answers else ""
    parts = ", ".join(content)
    given = f'"messages": [{{"role": "user", "content": [{parts}]}}]' if answers else f'"input": [{parts}]'
    body, route = f'{{"model": {json.dumps(shared.name)}{own}, {given}}}', "chat/completions" if answers else "embeddings"
    key = '-H "authorization: Bearer $KEY" ' if keyed else ""
    return [*files, f"curl -s {address}/v1/{route} {key}-H 'content-type: application/json' -d @- <<END", body, "END"]


MEDIA_PARTS: Sequence[tuple[str, str, str, str]] = (
    ("image", "PICTURE", "picture.png", '{"type": "image_url", "image_url": {"url": "data:image/png;base64,$PICTURE"}}'),
    ("audio", "SOUND", "sound.wav", '{"type": "input_audio", "input_audio": {"data": "$SOUND", "format": "wav"}}'),
    ("video", "VIDEO", "video.mp4", '{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,$VIDEO"}}'),
)
