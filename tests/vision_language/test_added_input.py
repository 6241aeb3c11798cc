"""What a vision-language model does not read (sound, a table) reaches its language model's layers through a fusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_vlms import NAMES, picture

import chiasm
from chiasm.assemble import build
from chiasm.data.collate import Collator
from chiasm.recipe import load_recipe
from chiasm.tasks.generate import prompts_alone
from chiasm.types import Opened, RecipeError, Sample, Sound

AUDIO = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "mels": 8, "tokens": 3}
GATED = {"type": "gated_cross_attention", "feed_forward": 1}
BOTH = [(name, "gated_cross_attention") for name in NAMES] + [("idefics3", name) for name in ("cross_attention", "late", "co_attention")]


def recipe(folder: Path, fusion: Any, **changes: Any) -> dict[str, Any]:
    return {
        "name": "heard",
        "inputs": {"image": "image", "audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 0.2}, "question": "text"},
        "encoders": {"audio": AUDIO},
        "backbone": {"model": str(folder), "train": "none"},
        "fusion": fusion,
        "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 4}}},
        **changes,
    }


def tone(pitch: float) -> np.ndarray:
    return np.sin(np.arange(1600) * pitch * 2 * np.pi / 8000).astype(np.float32) / 2


def opened(count: int = 3) -> list[Opened]:
    rows = []
    for number in range(count):
        parts = {"image": picture(number), "audio": b"", "question": "what colour is the square ?"[: 20 + 3 * number], "answer": "red"}
        values = {"image": picture(number), "audio": Sound(tone(200.0 * (number + 1)), 8000)}
        rows.append(Opened(Sample(f"row{number}", parts), values, {"image": f"i{number}", "audio": f"a{number}"}))
    return rows


def answers(model: Any, processor: Any, rows: list[Opened]) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits at every place of the prompts and targets, greedily written tokens)."""
    step = Collator(list(model.tasks.values()), processor)(rows)
    [batch], streams = step.batches, model.eval().encode(step.pool)
    with torch.no_grad():
        logits = model.text_logits(model.fuse(batch.inputs, streams))
        written = model.generate(**prompts_alone(batch, processor.pad_id), streams=streams, max_new_tokens=5, do_sample=False)
    return logits, written


@pytest.mark.parametrize("name", NAMES)
def test_with_closed_gates_it_is_the_bare_model_to_the_bit(name: str, checkpoint):
    bare = {**recipe(checkpoint(name), "none"), "inputs": {"image": "image", "question": "text"}, "encoders": {}}
    rows = opened()
    silent = [Opened(row.sample, {"image": row.values["image"]}, {"image": row.keys["image"]}) for row in rows]
    plain, plain_written = answers(*build(load_recipe(bare), []), silent)
    model, processor = build(load_recipe(recipe(checkpoint(name), GATED)), [])
    heard, heard_written = answers(model, processor, rows)
    assert torch.equal(plain, heard) and torch.equal(plain_written, heard_written)
    with model.fusion.gates_open():
        opened_logits, _ = answers(model, processor, rows)
    assert not torch.allclose(opened_logits, plain, rtol=1e-3)


@pytest.mark.parametrize(("name", "fusion"), BOTH)
def test_what_is_written_token_by_token_is_what_the_loss_sees(name: str, fusion: str, checkpoint):
    """Teacher-forced logits equal those of generation with a cache; sound and picture are read once, with the prompt."""
    model, processor = build(load_recipe(recipe(checkpoint(name), fusion)), [])
    for gate in model.fusion.gates():
        gate.data.fill_(0.7)
    step = Collator(list(model.tasks.values()), processor)(opened())
    [batch], streams = step.batches, model.eval().encode(step.pool)
    prompts = prompts_alone(batch, processor.pad_id)
    length = prompts["input_ids"].shape[1]
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    made = model.generate(**prompts, streams=streams, **settings)
    media = {key: value for key, value in prompts.items() if key not in ("input_ids", "attention_mask")}
    mask = torch.cat([prompts["attention_mask"], torch.ones(3, 5, dtype=torch.bool)], 1)
    with torch.no_grad():
        fused = model.fuse({**media, "input_ids": made.sequences, "attention_mask": mask}, streams)
        forced = model.text_logits(fused)[:, length - 1 : -1]
    torch.testing.assert_close(torch.stack(made.logits, 1), forced, rtol=1e-4, atol=1e-4 * float(forced.abs().max()))
    other, _ = answers(model, processor, [*opened()[1:], opened()[0]])
    again, _ = answers(model, processor, opened())
    assert other.shape != again.shape or not torch.allclose(other, again)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The answer is in the sound alone."""
    folder = tmp_path_factory.mktemp("tones")
    draws = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 16)):
        lines = []
        for number in range(count):
            high = number % 2
            soundfile.write(folder / f"{split}{number}.wav", tone(1800.0 * high + 300 + draws.uniform(0, 60)), 8000)
            Image.fromarray(picture(number)).save(folder / f"{split}{number}.png")
            files = {"image": f"{split}{number}.png", "audio": f"{split}{number}.wav"}
            lines.append({**files, "question": ["how many ?", "what colour ?"][number // 2 % 2], "answer": ["no", "yes"][high]})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_it_learns_to_hear(checkpoint, data: Path, tmp_path: Path):
    """The model stays frozen; its gates open, and what it answers follows the sound."""
    spec = recipe(
        checkpoint("idefics3"),
        GATED,
        data={"train": str(data / "train.jsonl"), "test": str(data / "test.jsonl")},
        stages=[{"steps": 40, "batch_size": 16, "learning_rate": 1e-2}],
        train={"precision": "fp32", "device": "cpu", "evaluate_every": 40},
    )
    run = chiasm.train(spec, output=tmp_path / "heard", progress=False)
    assert all(gate.abs().max() > 0 for gate in run.model.fusion.gates())
    scores = run.metrics["test"]
    assert scores["answer.exact_match"] >= 0.9
    assert scores["answer.exact_match[audio shuffled]"] <= 0.6
    assert run.answer(image=data / "test0.png", audio=data / "test1.wav", question="how many ?") == "yes"


def test_early_fusion_is_refused(checkpoint):
    with pytest.raises(RecipeError, match=r"fusion\.type: early puts 'audio' into the sequence.*gated_cross_attention"):
        build(load_recipe(recipe(checkpoint("llava"), "early")), [])


def test_a_table_votes_beside_the_model(checkpoint):
    """Late fusion on a head: the table's vector is joined to the model's last token."""
    samples = [Sample(str(i), {"question": "which ?", "age": i, "answer": ["a", "b"][i % 2]}) for i in range(6)]
    spec = recipe(
        checkpoint("gemma3"),
        "late",
        inputs={"image": "image", "patient": {"modality": "table", "numbers": ["age"]}, "question": "text"},
        encoders={},
        tasks={"answer": {"type": "classify", "prompt": "{question}", "target": "answer", "dropout": 0.0}},
    )
    model, processor = build(load_recipe(spec), samples)
    table = processor.modalities["patient"]
    rows = []
    for age in (1.0, 1.0, 4.0):
        values = {"image": picture(0), "patient": table.open({"age": age})[0]}
        rows.append(
            Opened(Sample(str(len(rows)), {**samples[0].parts, "image": b"", "age": age}), values, {"image": "i", "patient": str(age)})
        )
    step = Collator(list(model.tasks.values()), processor)(rows)
    [batch] = step.batches
    with torch.no_grad():
        outputs = model.tasks["answer"].outputs(model.eval(), batch, model.encode(step.pool))
    torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
