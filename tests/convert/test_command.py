"""`chiasm convert`, and what the other commands do with a converted run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))
import test_llava
import test_towers
import test_visual_bert
from tiny_checkpoints import picture_file

import chiasm
from chiasm.types import Sample
from chiasm_cli.main import run


@pytest.fixture
def at(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_prints_the_differences_and_what_to_type_next(at, capsys):
    test_visual_bert.save(at / "checkpoint", *test_visual_bert.CASES["answers"])
    assert run(["convert", "checkpoint", "run"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("VisualBert: ") and "largest difference from transformers on a random input:\n  hidden states  " in said.out
    assert "not taken over: visual_bert.pooler.dense.weight and 1 more (the answer is read from the last word" in said.out
    assert "not from the checkpoint: model.language_model.embeddings.word_embeddings.weight (1 row(s) for placeholders" in said.out
    assert "chiasm evaluate run --data DATA.jsonl" in said.err
    assert run(["convert", "checkpoint", "run"]) == 2
    assert capsys.readouterr().err == "error: run: not empty; name a new folder for the run\n"


def test_as_json_and_errors_in_one_line(at, capsys):
    test_towers.save(at / "checkpoint", *test_towers.CASES["clip"])
    assert run(["convert", "checkpoint", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["system"] == "Clip" and max(found["differences"].values()) <= 1e-5 and found["dropped"] == {}
    transformers.BertConfig().save_pretrained(at / "bert")
    assert run(["convert", "bert", "other"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a bert cannot be converted; these can: clip, llava, " in said
    picture_file(at)
    assert run(["ask", "run", "a red cat", "--image", "picture0.png"]) == 0
    said = capsys.readouterr()
    assert "image: a vector of 20 numbers (--json prints them)\ncaption: a vector of 20 numbers" in said.out
    assert float(said.out.split("similarity: ")[1]) == pytest.approx(similarity(at), abs=1e-4)
    (at / "rows.jsonl").write_text('{"image": "picture0.png", "caption": "a red cat"}\n{"image": "picture0.png", "caption": "a house"}\n')
    assert run(["predict", "run", "rows.jsonl", "--output", "out.jsonl"]) == 0
    assert json.loads((at / "out.jsonl").read_text().splitlines()[0])["score"] == pytest.approx(similarity(at), abs=1e-5)
    assert run(["evaluate", "run", "--data", "rows.jsonl"]) == 0
    assert "recall@1" in capsys.readouterr().out


@torch.no_grad()
def similarity(at: Path) -> float:
    """Of picture0.png and "a red cat", by transformers alone."""
    model = transformers.AutoModel.from_pretrained(at / "checkpoint").eval()
    prepared = transformers.AutoImageProcessor.from_pretrained(at / "checkpoint", use_fast=False)
    words = transformers.AutoTokenizer.from_pretrained(at / "checkpoint")(["a red cat"], return_tensors="pt")
    pixels = prepared([transformers.image_utils.load_image(str(at / "picture0.png"))], return_tensors="pt")["pixel_values"]
    found = model(input_ids=words["input_ids"], attention_mask=words["attention_mask"], pixel_values=pixels)
    return float(found.logits_per_image / model.logit_scale.exp())


def test_a_checkpoint_of_16_bits_stays_one(at):
    test_llava.save(at / "checkpoint", *test_llava.CASES["clip-llama"]).bfloat16().save_pretrained(at / "checkpoint")
    done = chiasm.convert("checkpoint", "run")
    assert done.differences["logits"] <= 0.05
    loaded = chiasm.load("run")
    assert loaded.model.dtype == torch.bfloat16
    assert isinstance(loaded.answer(image=picture_file(at), question="is there a red cat ?"), str)


def test_a_question_that_names_special_tokens_stays_text(at):
    """Also where a prompt is tokenised as one text, as the checkpoint's was."""
    test_llava.save(at / "checkpoint", *test_llava.CASES["clip-llama"])
    chiasm.convert("checkpoint", "run")
    loaded = chiasm.load("run")
    task, image = loaded.tasks["answer"], loaded.model.config.image_token_id
    samples = [Sample(str(i), {"image": b"", "question": text}) for i, text in enumerate(["a <image> </s> <s> cat", "a red cat"])]
    given, _ = task.collate(samples, loaded.processor)
    counts = [(row == image).sum().item() for row in given["input_ids"]]
    assert counts == [loaded.processor.placeholder_counts["image"]] * 2
    assert (given["input_ids"] == loaded.processor.tokenizer.bos_token_id).sum(1).tolist() == [1, 1]
    tokenizer = transformers.AutoTokenizer.from_pretrained("checkpoint")
    run_of = [image] * loaded.processor.placeholder_counts["image"]
    whole = [i for token in tokenizer("user : <image> a red cat assistant :")["input_ids"] for i in (run_of if token == image else [token])]
    assert given["input_ids"][1][: given["prompt_lengths"][1]].tolist() == whole
