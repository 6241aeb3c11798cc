"""A vision-language backbone that reads its pictures itself is explained as any other: its picture, its words, and an input added to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vision_language"))
sys.path.insert(0, str(Path(__file__).parent))
import tiny_vlms
from planted import untrained

import chiasm

RECIPE = {
    "inputs": {"image": "image", "question": "text"},
    "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 2}}},
}


@pytest.mark.parametrize("name", ["llava", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
def test_a_whole_model(name: str, tmp_path: Path):
    checkpoint = tiny_vlms.save(name, tmp_path / "checkpoint")
    run = untrained(tmp_path / "run", {**RECIPE, "backbone": {"model": str(checkpoint)}}, [{"question": "what ?", "answer": "red"}])
    row = {"image": tiny_vlms.picture(0), "question": "what colour is the square ?"}
    found = chiasm.explain(run, row, target="red")
    assert {m["input"]: m["baseline"] for m in found.modalities} == {"image": "left out", "question": "left out"}
    assert all(abs(m["value"]) > 0 for m in found.modalities)
    assert sum(m["value"] for m in found.modalities) == pytest.approx(found.value - found.without, abs=1e-5)
    picture = next(part for part in found.parts if part["kind"] == "picture")
    assert (picture["height"], picture["width"]) == row["image"].shape[:2]
    assert any(abs(unit["value"]) > 0 for unit in picture["units"]) and found.passes["parts"] <= 64
