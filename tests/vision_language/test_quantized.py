"""Backbones with four bits a weight: what comes back, what trains, what is saved, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
import transformers
from PIL import Image
from torch import nn
from transformers.pytorch_utils import Conv1D

import chiasm
from chiasm.export.engine import export
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.model_files import load_model, save_model
from chiasm.quantized import FourBitLinear, count_parameters, library, quantize
from chiasm.recipe import load_recipe
from chiasm.training.materials import assemble
from chiasm.types import ChiasmError, RecipeError

pytest.importorskip("bitsandbytes")
WIDE = {"hidden_size": 64, "intermediate_size": 128}
ADAPTED = {"quantize": "nf4", "train": {"lora": {"rank": 2}}}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Idefics3 with rows of 64 and 128 weights in its language model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_vlms, "TEXT", {**tiny_vlms.TEXT, **WIDE})
        return tiny_vlms.save("idefics3", tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2, whose linear layers store their weights the other way round."""
    folder = tmp_path_factory.mktemp("gpt2")
    texts = ["what colour is the square ?", "red green blue yes one two three"]
    tokenizer = learn_tokenizer(texts, kind="words", vocab_size=50, placeholders=[])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=32, vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    colours = ("red", "green", "blue")
    for number, name in enumerate(colours):
        Image.new("RGB", (16, 16), name).save(folder / f"{number}.png")
    rows = [{"image": f"{i % 3}.png", "question": "what colour is the square ?", "answer": colours[i % 3]} for i in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def recipe(model: Path, data: Path, **backbone: Any) -> dict[str, Any]:
    rows = str(data / "rows.jsonl")
    own = {} if (model / "preprocessor_config.json").is_file() or (model / "processor_config.json").is_file() else OUTSIDE
    return {
        "inputs": {"image": {"modality": "image", **({"size": 16} if own else {})}, "question": "text"},
        "backbone": {"model": str(model), **backbone},
        "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 3}}},
        "data": {"train": rows, "validation": rows, "test": rows},
        "stages": [{"steps": 4, "batch_size": 8, "learning_rate": 1e-2}],
        "train": {"precision": "fp32", "device": "cpu"},
        **own,
    }


OUTSIDE: dict[str, Any] = {
    "encoders": {"image": {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [16], "depths": [1], "layer_type": "basic", "grid": 2}},
    "fusion": "gated_cross_attention",
}


def packed(model: nn.Module) -> dict[str, FourBitLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FourBitLinear)}


@pytest.mark.parametrize("kind", [nn.Linear, lambda i, o: Conv1D(o, i)], ids=["Linear", "Conv1D"])
def test_it_multiplies_by_what_it_gives_back(kind):
    torch.manual_seed(0)
    part = nn.Sequential(kind(128, 24))
    assert quantize(part, [], filled=True) == []
    small, x = part[0], torch.randn(2, 5, 128).requires_grad_()
    full = small.full()
    assert full.shape == (24, 128) and small.packed.numel() * 2 == full.numel()
    y = small(x)
    assert torch.allclose(y, x @ full.T + small.bias, atol=1e-5)
    y.sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, full.sum(0).expand_as(x), atol=1e-4)


def test_what_the_library_gives_back_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch):
    right = library().functional.dequantize_4bit
    monkeypatch.setattr(library().functional, "dequantize_4bit", lambda packed, state: right(packed, state).roll(1, 0))
    with pytest.raises(ChiasmError, match="does not give NF4 weights back"):
        quantize(nn.Sequential(nn.Linear(64, 8)), [], filled=True)


def test_rows_that_are_no_multiple_of_a_block_stay(checkpoint, data: Path):
    """bitsandbytes gives weights back wrong on a CPU where a block goes on in the next row."""
    found = assemble(load_recipe(recipe(checkpoint("idefics3"), data, **ADAPTED)))
    assert not packed(found.model)
    [note] = [note for note in found.model.notes if "quantize" in note]
    assert "stay in full" in note and "q_proj" in note


@pytest.mark.parametrize("name", ["wide", "gpt2"])
def test_training_moves_adapters_alone_and_a_saved_one_is_bit_identical(name: str, data: Path, tmp_path: Path, request):
    model = request.getfixturevalue(name)
    run = chiasm.train(recipe(model, data, **ADAPTED), output=tmp_path / "run", progress=False)
    fresh = assemble(load_recipe(recipe(model, data, **ADAPTED))).model
    before, after = fresh.state_dict(), run.model.state_dict()
    layers = packed(run.model)
    assert layers and all(".language_model." in f".{key}" and "lora_" not in key for key in layers)
    kept = [key for key in after if key.startswith("model.language_model.") and "lora_" not in key]
    assert len(kept) > len(layers) and all(torch.equal(before[key].cpu(), after[key].cpu()) for key in kept)
    assert any(not torch.equal(before[key], after[key]) for key in after if "lora_B" in key)
    again, _ = load_model(run.folder / "model")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in after.items())
    save_model(again, run.processor, tmp_path / "twice")
    for file in (run.folder / "model").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes()
    assert run.answer(image=str(data / "0.png"), question="what colour is the square ?") == chiasm.load(run.folder).answer(
        image=str(data / "0.png"), question="what colour is the square ?"
    )
    full = assemble(load_recipe(recipe(model, data, train=ADAPTED["train"]))).model
    assert count_parameters(run.model) == sum(p.numel() for p in full.parameters())
    with pytest.raises(ChiasmError, match="vision-language" if name == "wide" else "packed weights"):
        export(run, to="onnx", output=tmp_path / "out")


def test_packing_is_near_the_full_weights(gpt2: Path, data: Path):
    full, small = (assemble(load_recipe(recipe(gpt2, data, train="none", **more))).model.eval() for more in ({}, {"quantize": "nf4"}))
    ids = torch.arange(4, 12).unsqueeze(0)
    with torch.no_grad():
        theirs, ours = full(input_ids=ids).logits, small(input_ids=ids).logits
    assert not torch.equal(theirs, ours)
    assert (ours - theirs).norm() < 0.25 * theirs.norm()


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ({"model": "gpt2", "quantize": "nf4"}, "packed weights do not train"),
        ({"model": "gpt2", "quantize": "nf4", "train": 2}, "packed weights do not train"),
        ({"arch": "gpt2", "quantize": "nf4", "train": "none"}, "write model: NAME too"),
        ({"model": "gpt2", "quantize": "int3", "train": "none"}, "backbone.quantize"),
    ],
)
def test_what_cannot_be_is_refused(backbone: dict[str, Any], says: str, data: Path):
    with pytest.raises(RecipeError, match=says):
        load_recipe({**recipe(Path("x"), data), "backbone": backbone})
