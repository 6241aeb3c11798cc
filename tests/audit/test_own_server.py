"""An audit of a run behind `chiasm serve` is the audit of the run: the same answers under every condition."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "vision_language"))
sys.path.insert(0, str(Path(__file__).parent))
import tiny_vlms
from test_local import vlm_rows, with_answers
from tiny_models import WORDS, picture
from tiny_server import running, tiny_run

import chiasm
from chiasm.audit.local import whole_model
from chiasm.media.image import png_bytes


def test_a_run_behind_our_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = tiny_run(tmp_path / "run")
    lines = []
    for number in range(24):
        (tmp_path / f"{number}.png").write_bytes(png_bytes(picture(number)))
        lines.append({"image": f"{number}.png", "question": WORDS[number % 3], "answer": "yes"})
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with running(run) as client:
        served = chiasm.audit(f"http://127.0.0.1:{client.port}/v1", data, max_tokens=4)
    here = chiasm.audit(run.folder, data, task="answer", score="contains")

    def said(found: chiasm.Audit) -> dict[tuple[str, str], str]:
        return {(one["condition"], one["id"]): one["output"] for one in found.predictions}

    assert len(said(served)) == 24 * 4 and said(served) == said(here)
    assert [one for one in here.notes if "audio" in one] == ["no row has `audio`"]


def test_a_vision_language_model_behind_our_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its right answers are what it says itself about each picture: it looks, and the audit of the server says so."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder, data = tiny_vlms.save("llava", tmp_path / "checkpoint"), vlm_rows(tmp_path, 24)
    local = whole_model(str(folder), score=None, columns=("image", "question", "answer"), question=None, answer=None, tokens=3)
    (folder / "recipe.yaml").write_text(local.run.recipe.to_yaml(), encoding="utf-8")  # as in a run's folder
    with running(local.run) as client:
        url = f"http://127.0.0.1:{client.port}/v1"
        said = {one["id"]: one["output"] for one in chiasm.audit(url, data, max_tokens=3).predictions if one["condition"] == "as it is"}
        own = with_answers(data, [said[f"rows.jsonl:{number + 1}"] for number in range(24)])
        found = chiasm.audit(url, own, max_tokens=3, score="exact_match")
    (folder / "recipe.yaml").unlink()
    here = chiasm.audit(folder, own, max_tokens=3, score="exact_match")
    assert {one.input: one.verdict for one in found.verdicts} == {one.input: one.verdict for one in here.verdicts}
    assert found.verdicts[0].input == "image" and found.verdicts[0].verdict == "uses"
