"""Videos from files to answers: a tiny run, pretrained video models, and what the shipped recipe learns that one frame cannot tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

import chiasm
from chiasm.assemble import build
from chiasm.data.draft import infer_recipe
from chiasm.recipe import load_recipe
from chiasm.types import RecipeError, Sample

RESNET = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "first_pooling": False}
RECIPE: dict[str, Any] = {
    "name": "video",
    "inputs": {"video": {"modality": "video", "size": 16, "frames": 4}, "question": "text"},
    "encoders": {"video": {**RESNET, "grid": 4, "differences": True}},
    "backbone": {"arch": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, "tokenizer": "words"},
    "fusion": "cross_attention",
    "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 2}}},
    "stages": {"steps": 8, "batch_size": 16, "learning_rate": 3e-3},
    "train": {"precision": "fp32"},
}
QUESTION = "which way does it move ?"


def square_that_moves(path: Path, step: int) -> None:
    """A white square that goes right by `step` pixels a frame (left where negative), as an MP4 of eight frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        for number in range(8):
            picture = np.zeros((32, 32, 3), np.uint8)
            left = 12 + step * (number - 4)
            picture[12:20, left : left + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for step in (-2, -1, 1, 2):
        square_that_moves(folder / f"{step}.mp4", step)
        rows.append({"video": f"{step}.mp4", "question": QUESTION, "answer": "left" if step < 0 else "right"})
    (folder / "cut.mp4").write_bytes((folder / "1.mp4").read_bytes()[:300])
    (folder / "list.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n1.mp4\n")
    bad = [{**rows[0], "video": name} for name in ("cut.mp4", "list.mp4")]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [*rows * 4, *bad])), encoding="utf-8")
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    splits = {"train": str(data / "train.jsonl"), "validation": str(data / "test.jsonl"), "test": str(data / "test.jsonl")}
    return chiasm.train({**RECIPE, "data": splits}, output=tmp_path_factory.mktemp("runs") / "video", progress=False)


def test_it_trains_and_bad_clips_are_listed(run: chiasm.Run):
    counts = json.loads((run.folder / "data.json").read_text())["train"]
    assert counts["read"] == counts["used"] + counts["quarantined"] + counts["filtered"] == 18
    bad = [json.loads(line) for line in (run.folder / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert {(row["input"], row["reason"]) for row in bad} == {("video", "truncated"), ("video", "demuxer_not_allowed")}
    assert {"answer.exact_match[video shuffled]", "answer.exact_match[video missing]"} <= set(run.metrics["test"])


def test_it_is_asked_about_a_file(run: chiasm.Run, data: Path, capsys: pytest.CaptureFixture[str]):
    from chiasm_cli.main import run as command

    answer = run.answer(video=data / "2.mp4", question=QUESTION)
    assert isinstance(answer, str)
    assert command(["ask", str(run.folder), QUESTION, "--video", str(data / "2.mp4")]) == 0
    assert capsys.readouterr().out.startswith(answer)


def test_transformers_loads_it_with_equal_logits(run: chiasm.Run, data: Path):
    model = AutoModelForMultimodalLM.from_pretrained(run.folder / "model").eval()
    processor = AutoProcessor.from_pretrained(run.folder / "model")
    clips = [(data / f"{step}.mp4").read_bytes() for step in (-2, 2)]
    inputs = processor(text=[QUESTION] * 2, videos=clips, return_tensors="pt")
    assert {"pixel_values_videos", "video_mask", "video_times", "video_index"} < set(inputs) <= set(processor.model_input_names)
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(logits, run.model(**inputs).logits)
        features = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_mask"])["pooler_output"]
        bare = {name: value for name, value in inputs.items() if name not in ("video_mask", "video_times")}
        other = model(**bare).logits  # frames whose times are not given are taken as one a second
    assert [len(tokens) for tokens in features] == [4 * 16] * 2 and not torch.equal(logits, other)


def videomae(folder: Path) -> Path:
    """A tiny pretrained VideoMAE as it lies on the Hub, with its preprocessing."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = AutoConfig.for_model("videomae", image_size=16, patch_size=8, num_frames=4, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    settings = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16},
        "size": {"shortest_edge": 16},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def samples() -> list[Sample]:
    draw = np.random.default_rng(0)
    return [
        Sample(f"{i}", {"video": draw.integers(0, 255, (6, 20, 24, 3), np.uint8), "question": QUESTION, "answer": ["left", "right"][i]})
        for i in range(2)
    ]


@pytest.mark.parametrize("fusion", ["early", "cross_attention"])
def test_a_pretrained_video_model_brings_its_weights_and_preprocessing(fusion: str, tmp_path: Path):
    folder = videomae(tmp_path)
    spec = {"model": str(folder), "train": {"lora": {"rank": 2}} if fusion == "early" else "none"}
    recipe = {**RECIPE, "inputs": {"video": "video", "question": "text"}, "encoders": {"video": spec}, "fusion": fusion}
    model, processor = build(load_recipe(recipe), samples(), [QUESTION, "left"])
    options = processor.modalities["video"].options
    assert (options.frames, options.size, options.resize, options.mean) == (4, (16, 16), "crop", (0.485, 0.456, 0.406))
    kept = AutoModel.from_pretrained(folder).state_dict()
    network = model.model.encoders["video"].network
    own = {name.replace("base_layer.", ""): value for name, value in network.state_dict().items() if "lora_" not in name}
    assert own.keys() == kept.keys() and all(torch.equal(own[name], value) for name, value in kept.items())
    assert any("lora_" in name for name, _ in network.named_parameters()) == (fusion == "early")
    inputs = processor(text=[QUESTION], videos=[samples()[0].parts["video"]])
    assert torch.isfinite(model(**inputs).logits).all()


def test_early_fusion_says_what_it_needs():
    recipe = {**RECIPE, "inputs": {"video": {"modality": "video", "size": 16}, "question": "text"}}
    with pytest.raises(RecipeError, match=r"frames"):
        build(load_recipe({**recipe, "fusion": "early"}), samples(), [QUESTION, "left"])


def test_init_writes_a_recipe_for_videos(data: Path, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(infer_recipe(data / "train.jsonl", "answer"), encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.inputs["video"].modality == "video" and recipe.inputs["video"].options == {"size": 64, "frames": 8}
    build(recipe, samples(), [QUESTION, "left"])


@pytest.mark.slow
def test_the_recipe_learns_what_one_frame_does_not_tell(tmp_path: Path):
    """Direction, order and swaps far above the same recipe with one frame, which stays near chance; colours both can tell."""
    whole = chiasm.train("video_qa:tiny", output=tmp_path / "whole", progress=False).metrics["test"]
    single = chiasm.train("video_qa:tiny", overrides=["inputs.video.frames=1"], output=tmp_path / "single", progress=False).metrics["test"]
    for kind, chance in (("direction", 0.25), ("order", 0.5), ("swap", 0.5)):
        key = f"answer.exact_match[kind={kind}]"
        assert single[key] < chance + 0.12 and whole[key] > single[key] + 0.25, kind
    assert single["answer.exact_match[kind=colour]"] > 0.3
