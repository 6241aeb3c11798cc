"""An audit of a vision-language model behind `transformers serve`: the same verdict as of the model in this process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vision_language"))
sys.path.insert(0, str(Path(__file__).parent))
import tiny_vlms
from test_local import vlm_rows, with_answers

import chiasm

pytest.importorskip("fastapi", reason="needs fastapi and uvicorn, as in the extra serve")
pytest.importorskip("openai", reason="transformers serve needs openai, as in the extra dev")
SERVE = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """The address of a server of a model folder, once it is up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    surroundings = {**os.environ, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    command = [*SERVE, str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=surroundings) as server:
        try:
            for _ in range(600):
                assert server.poll() is None, log.read_text()[-3000:]
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


@pytest.mark.slow
def test_a_vlm_behind_transformers_serve(tmp_path: Path):
    folder, data = tiny_vlms.save("llava", tmp_path / "checkpoint"), vlm_rows(tmp_path, 24)
    with served(folder, tmp_path / "log") as url:
        first = chiasm.audit(url, data, name=str(folder), max_tokens=3)
        said = {one["id"]: one["output"] for one in first.predictions if one["condition"] == "as it is"}
        own = with_answers(data, [said[f"rows.jsonl:{number + 1}"] for number in range(24)])
        found = chiasm.audit(url, own, name=str(folder), max_tokens=3, score="exact_match")
    print("\n".join(["", *found.lines()]))
    here = chiasm.audit(folder, own, max_tokens=3, score="exact_match")
    assert {one.input: one.verdict for one in found.verdicts} == {one.input: one.verdict for one in here.verdicts}
    assert found.verdicts[0].input == "image" and found.verdicts[0].verdict == "uses"
    assert json.loads(json.dumps(found.to_json()))["rows"] == 24
