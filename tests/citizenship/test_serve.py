"""`transformers serve` on a model folder: a chat completion about a picture and a sound, as OpenAI's clients ask for it.

The server must know the classes. It does with `--trust-remote-code` on a folder that `chiasm export --to hub` wrote (whose module imports
chiasm), and on any model folder when it is started by a Python that imported chiasm.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from citizens import QUESTION, chat, citizen, image, png, sound, wav

from chiasm.export.hub import map_classes

pytest.importorskip("fastapi", reason="needs fastapi, uvicorn and openai, as in the extra dev")
pytest.importorskip("openai", reason="needs fastapi, uvicorn and openai, as in the extra dev")
STARTS = {
    "imported": ["-c", "import sys, chiasm; from transformers.cli.transformers import main; main()"],
    "trusted": ["-c", "from transformers.cli.transformers import main; main()"],
}


@pytest.mark.slow
@pytest.mark.parametrize("how", STARTS)
def test_a_chat_about_a_picture_and_a_sound(how, tmp_path):
    model, processor = citizen("early", "gpt2")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    if how == "trusted":
        map_classes(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    trust = ["--trust-remote-code"] if how == "trusted" else []
    command = [sys.executable, *STARTS[how], "serve", str(tmp_path), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *trust]
    surroundings = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=surroundings) as server:
        try:
            answer = ask(port, str(tmp_path), server)
        finally:
            server.terminate()
    inputs = processor.apply_chat_template(
        chat({"type": "image", "image": image()}, {"type": "audio", "audio": sound(0)}), tokenize=True, return_dict=True
    )
    with torch.no_grad():
        new = model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert answer == processor.batch_decode(new, skip_special_tokens=True)[0]


def ask(port: int, model: str, server: subprocess.Popen) -> str:
    """The text of one chat completion, once the server is up."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png()).decode()}"}}
    heard = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav()).decode(), "format": "wav"}}
    messages = [{"role": "user", "content": [picture, heard, {"type": "text", "text": QUESTION}]}]
    body = {"model": model, "messages": messages, "max_tokens": 5, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(600):
        assert server.poll() is None, Path(model, "log").read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
        except OSError:
            time.sleep(0.5)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.loads(response.read())["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode() + Path(model, "log").read_text()[-3000:]) from error
