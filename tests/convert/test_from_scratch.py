"""The recipe of a converted run is a recipe: its components are known, and a fresh model of it trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import test_llava
import test_towers
import test_vision_encoder_decoder
import test_visual_bert
from tiny_checkpoints import picture_file

import chiasm
from chiasm.model_files import load_model
from chiasm.recipe import load_recipe
from chiasm.recipe_check import check_components
from chiasm.training.loop import train
from chiasm.training.materials import assemble

SYSTEMS = {
    "vit-gpt2": (test_vision_encoder_decoder, "vit-gpt2"),
    "deit-bert": (test_vision_encoder_decoder, "deit-bert"),
    "clip": (test_towers, "clip"),
    "siglip": (test_towers, "siglip"),
    "llava": (test_llava, "clip-llama"),
    "visual_bert": (test_visual_bert, "answers"),
    "visual_bert without a head": (test_visual_bert, "no head"),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_trains_from_scratch(tmp_path, name):
    system, case = SYSTEMS[name]
    system.save(tmp_path / "checkpoint", *system.CASES[case])
    chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    draw, width = np.random.default_rng(0), (system.CASES[case][2] if system is test_visual_bert else {}).get("visual_embedding_dim", 1)
    lines = []
    for i in range(10):
        words = {
            "question": ["is there a red cat ?", "yes"][i % 2],
            "answer": ["yes", "no"][i % 2],
            "caption": f"a blue dog {'house ' * i}",
        }
        regions = draw.normal(size=(1 + i % 4, width)).tolist()
        lines.append(json.dumps({"image": picture_file(tmp_path, i).name, "regions": regions, "label": f"LABEL_{i % 5}", **words}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    data = f"data.train={tmp_path / 'rows.jsonl'}", f"data.validation={tmp_path / 'rows.jsonl'}"
    steps = "stages.main.steps=2", "stages.main.epochs=null", "stages.main.batch_size=4", "train.precision=fp32", "train.device=cpu"
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml", [*data, *steps])
    check_components(recipe)
    train(recipe, output=tmp_path / "trained", progress=False, build=assemble)
    fresh, _ = load_model(tmp_path / "trained" / "model")
    converted, _ = load_model(tmp_path / "run" / "model")
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in converted.named_parameters()}
