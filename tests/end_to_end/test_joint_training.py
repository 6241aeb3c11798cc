"""Captions, dialogues and texts alone in one stage: every row goes to the tasks whose columns it has; text alone is a language model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
from tiny_models import BACKBONES, NEITHER_DROPS, VIT, picture

import chiasm
from chiasm.data.collate import Collator
from chiasm.media.write import write_picture

ENDINGS = ["red cat", "blue dog", "green house"]


@pytest.fixture
def folder(tmp_path):
    for n in range(6):
        write_picture(tmp_path / f"{n}.png", picture(n))
    rows = [{"image": f"{n}.png", "caption": f"a {ENDINGS[n % 3]}"} for n in range(6)]
    turns = [{"question": "what is it ?", "answer": "a cat"}, {"question": "is it red ?", "answer": "yes"}]
    talks = [{"image": f"{n}.png", "history": turns[: n % 3], "question": "sure ?", "answer": "yes" if n % 2 else "no"} for n in range(6)]
    texts = [{"text": f"once there was a {ending}"} for ending in ENDINGS]
    for name, records in (("captions", rows), ("talks", talks), ("texts", texts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def recipe(folder, **changes):
    return {
        "inputs": {"image": {"modality": "image", "size": 16}, "question": "text"},
        "encoders": {"image": {**VIT, **NEITHER_DROPS}},
        "backbone": BACKBONES["gpt2"],
        "fusion": {"type": "gated_cross_attention", "see": "last"},
        "tasks": {
            "caption": {"type": "generate", "prompt": "", "target": "{caption}", "generation": {"max_new_tokens": 3}},
            "answer": {
                "type": "generate",
                "prompt": "{image} {history} q : {question} a :",
                "repeat": {"history": "q : {question} a : {answer} ."},
                "target": "{answer}",
                "generation": {"max_new_tokens": 2},
            },
            "speak": {"type": "generate", "prompt": "", "target": "{text}", "inputs": [], "generation": {"max_new_tokens": 3}},
        },
        "data": {
            "root": str(folder),
            "train": {"mix": {"captions.jsonl": 2, "talks.jsonl": 1, "texts.jsonl": 1}},
            "validation": ["captions.jsonl", "talks.jsonl", "texts.jsonl"],
        },
        "stages": [{"steps": 3, "batch_size": 6, "learning_rate": 1e-3}],
        "train": {"loss_weights": "learned", "precision": "fp32", "device": "cpu"},
        **changes,
    }


def test_one_stage_on_several_files(folder):
    run = chiasm.train(recipe(folder), output=folder / "run", progress=False)
    steps = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    losses = {name for step in steps for name in step.get("losses", {})}
    assert losses == {"caption", "answer", "speak"}
    figures = run.metrics["validation"]
    assert {"caption.exact_match", "answer.exact_match", "speak.exact_match"} <= set(figures)
    assert not any(key.startswith("speak") and "shuffled" in key for key in figures), "it reads no input"
    assert "answer.exact_match[image shuffled]" in figures
    history = [{"question": "what is it ?", "answer": "a cat"}]
    assert isinstance(run.answer(task="answer", image=str(folder / "0.png"), question="sure ?", history=history), str)

    split = run.split("validation")
    model, task = run.model, run.tasks["speak"]
    step = Collator(list(run.tasks.values()), run.processor)(split.open_rows(range(len(split))))
    assert {batch.task: len(batch) for batch in step.batches} == {"caption": 6, "answer": 6, "speak": 3} and not step.bad
    batch = next(batch for batch in step.batches if batch.task == "speak")
    with torch.no_grad():
        alone = task.outputs(model, batch, {})
        assert torch.equal(alone, task.outputs(model, batch, model.encode(step.pool))), "another task's pictures do not reach it"
        plain = model.model.language_model(batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"].long())
        model_logits = model.word_logits(plain.last_hidden_state[:, 0])
    with torch.no_grad():
        for gate in model.fusion.gates():
            gate.fill_(0.0)
        assert torch.allclose(task.outputs(model, batch, {}), model_logits, atol=1e-5), "with shut gates it is the plain language model"
