"""Any server that speaks OpenAI's chat completions. Nothing but the given address is contacted; a redirect is refused.

The key is taken from OPENAI_API_KEY where it is set. Media are sent inside the request, as they are in the file where servers read that.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chiasm.audit.rows import ANSWERS, MEDIA, QUESTIONS, Asked, column, there, whole_paths
from chiasm.media import containers, files
from chiasm.media.audio import Audio, wav_bytes
from chiasm.media.image import Image, png_bytes
from chiasm.tasks.template import as_text
from chiasm.types import ChiasmError, Sample

PARALLEL = 4
TRIES = 5
LONGEST_WAIT = 60.0  # seconds, whatever a server's Retry-After says
LIMIT = 64 << 20  # bytes of a picture or sound
AS_THEY_ARE = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
BUSY = (408, 429, 500, 502, 503, 504)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


class Endpoint:
    """`kept`: a file in which answers stand, one JSON line each; what is there already is not asked again."""

    what = "at most {} requests"
    at_once = PARALLEL

    def __init__(
        self,
        url: str,
        model: str | None,
        *,
        columns: Sequence[str],
        question: str | None = None,
        answer: str | None = None,
        score: str | None = None,
        tokens: int = 32,
        timeout: float = 120.0,
        kept: Path | None = None,
    ):
        self.url = url.rstrip("/").removesuffix("/chat/completions")
        self.tokens, self.timeout, self.kept = tokens, timeout, kept
        self.question, self.wanted = column(columns, question, QUESTIONS, "question"), column(columns, answer, ANSWERS, "answer")
        self.inputs = {name: name for name in MEDIA if name in columns} | {"question": "text"}
        if len(self.inputs) < 2:
            raise ChiasmError(f"the data have no column {' or '.join(MEDIA)}, so there is no input whose use could be measured")
        self.opener = urllib.request.build_opener(_NoRedirect)
        self.known = _read(kept)
        self.model = model or self._only_model()
        self.title, self.score = f"{self.model} at {self.url}", score or "contains"

    def asked(self, sample: Sample) -> Asked | None:
        """A record with its media as parts of a message; None without an answer. Raises BadInput."""
        target = sample.parts.get(self.wanted)
        if target is None or target == "":
            return None
        found: dict[str, Any] = {"question": as_text(sample.parts.get(self.question))}
        for name in there(sample.parts, [name for name in MEDIA if name in self.inputs]):
            value = sample.parts[name]
            items = whole_paths(value if isinstance(value, list) else [value], sample.root)
            found[name] = [(picture_part if name == "image" else sound_part)(item) for item in items]
        return Asked(sample.id, {name: found[name] for name in there(found, list(found))}, target)

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        pool = ThreadPoolExecutor(PARALLEL)
        try:
            return list(pool.map(self.ask, rows))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, parts: Mapping[str, Any]) -> str:
        """One chat completion, at temperature 0."""
        content = [item for name in MEDIA for item in parts.get(name, ())]
        content += [{"type": "text", "text": parts["question"]}] if parts.get("question") else []
        messages = [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "max_tokens": self.tokens, "temperature": 0}
        key = hashlib.sha256(json.dumps([self.url, body]).encode()).hexdigest()
        if key not in self.known:
            self.known[key] = said = self._answer(self._send("/chat/completions", body))
            if self.kept is not None:
                with self.kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "answer": said}, ensure_ascii=False) + "\n")
        return self.known[key]

    def _answer(self, reply: Any) -> str:
        try:
            return reply["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise ChiasmError(f"{self.url}: the reply is no chat completion: {json.dumps(reply)[:200]}") from None

    def _only_model(self) -> str:
        """The model that a server has, where it has just one."""
        found = self._send("/models", None)
        names = [one["id"] for one in found.get("data", [])] if isinstance(found, dict) else []
        if len(names) != 1:
            raise ChiasmError(f"{self.url} has {len(names)} models; name one with --model" + (f": {', '.join(names[:8])}" if names else ""))
        return names[0]

    def _send(self, path: str, body: Any) -> Any:
        """POST `body`, or GET where it is None; tried again while the server is busy, as late as it asks for."""
        headers = {"Content-Type": "application/json", "User-Agent": "chiasm-audit"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, None if body is None else json.dumps(body).encode(), headers)
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                with self.opener.open(request, timeout=self.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                if last or error.code not in BUSY:
                    raise ChiasmError(f"{self.url}{path} answered {error.code}: {_reason(error)}{self._hint(error.code)}") from None
                wait = _seconds(error.headers.get("Retry-After"), attempt)
            except (OSError, ValueError) as error:  # no connection, a timeout, or no JSON
                if last:
                    raise ChiasmError(f"{self.url}{path}: {getattr(error, 'reason', error)}") from None
                wait = _seconds(None, attempt)
            time.sleep(wait)
        raise AssertionError("the last try answers or raises")

    def _hint(self, code: int) -> str:
        return f"; most servers answer below /v1: give {self.url}/v1" if code == 404 and not urlsplit(self.url).path else ""


def picture_part(value: Any) -> dict[str, Any]:
    """A picture as a part of a message: the file as it is, or as a PNG where it is of a kind that servers do not read."""
    pixels, _ = Image(Image.Options(size="original")).open(value, root="/")
    data = files.read_bytes(value, root="/", limit=LIMIT) if files.is_file(value) else b""
    kind = AS_THEY_ARE.get(containers.picture_format(data)) if data else None
    return {"type": "image_url", "image_url": {"url": _data_uri(f"image/{kind or 'png'}", data if kind else png_bytes(pixels))}}


def sound_part(value: Any) -> dict[str, Any]:
    """A sound as a part of a message, as WAV or MP3."""
    sound, _ = Audio(Audio.Options(window=600)).open(value, root="/")
    data = files.read_bytes(value, root="/", limit=LIMIT) if files.is_file(value) else b""
    kind = containers.sound_format(data[:16]).lower() if data else ""
    data, kind = (data, kind) if kind in ("wav", "mp3") else (wav_bytes(sound), "wav")
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _read(kept: Path | None) -> dict[str, str]:
    """Answers of an earlier audit; a line that was cut off when it stopped is asked again."""
    found: dict[str, str] = {}
    if kept is None or not kept.is_file():
        return found
    text = kept.read_text("utf-8")
    if text and not text.endswith("\n"):
        kept.write_text(text + "\n", encoding="utf-8")
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[entry["key"]] = entry["answer"]
    return found


def _seconds(retry_after: str | None, attempt: int) -> float:
    """How long to wait: what the server says, in seconds, else twice as long each time."""
    try:
        return min(max(float(retry_after or ""), 0.0), LONGEST_WAIT)
    except ValueError:
        return min(2.0**attempt, LONGEST_WAIT)


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read(2000).decode("utf-8", "replace")
    return " ".join(text.split())[:300] or error.reason
