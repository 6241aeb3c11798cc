"""A vision-language backbone reads and writes what transformers' own model does, fed by its own processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_vlms import MAKERS, NAMES, picture
from transformers import AutoModelForMultimodalLM, AutoProcessor

from chiasm.assemble import build
from chiasm.data.collate import Collator
from chiasm.recipe import load_recipe
from chiasm.tasks.generate import prompts_alone
from chiasm.types import Opened, Sample

every_model = pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in NAMES else [pytest.mark.slow]) for name in MAKERS])
ROWS: list[tuple[list[tuple[int, int]], str]] = [  # sizes of a row's pictures, and what is asked about them
    ([(16, 16)], "what colour is the square ?"),
    ([(24, 40)], "how many dogs are there , and where ?"),
    ([], "yes or no ?"),
    ([(30, 20), (16, 33)], "which ?"),
]


@pytest.fixture(scope="module")
def built(checkpoint):
    return cache(lambda name, **options: assembled(checkpoint(name), **options))


def assembled(folder: Path, **backbone: Any) -> tuple[Any, Any]:
    recipe = {
        "inputs": {"image": "image", "question": "text"},
        "backbone": {"model": str(folder), **backbone},
        "tasks": {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 6}}},
    }
    return build(load_recipe(recipe), [])


def opened(rows: Any = ROWS, answer: str = "red") -> list[Opened]:
    made = []
    for number, (sizes, question) in enumerate(rows):
        pictures = [picture(10 * number + i, *size) for i, size in enumerate(sizes)]
        values = {"image": pictures} if pictures else {}
        keys = {"image": tuple(f"{number}/{i}" for i in range(len(sizes)))} if pictures else {}
        made.append(Opened(Sample(f"row{number}", {"image": pictures or None, "question": question, "answer": answer}), values, keys))
    return made


def reference(folder: Path) -> tuple[Any, Any]:
    """transformers' own model and processor; Qwen-VL's without the part for videos, which needs torchvision."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    if "qwen" not in model.config.model_type:
        return model, AutoProcessor.from_pretrained(folder)
    kind: Any = {"qwen2_5_vl": transformers.Qwen2_5_VLProcessor, "qwen3_vl": transformers.Qwen3VLProcessor}[model.config.model_type]

    class NoVideos(kind):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None

    words = transformers.AutoTokenizer.from_pretrained(folder)
    pictures = transformers.AutoImageProcessor.from_pretrained(folder)
    return model, NoVideos(pictures, words, None, chat_template=words.chat_template or (folder / "chat_template.jinja").read_text())


def asked(processor: Any, rows: list[Opened]) -> Any:
    """What transformers makes of the same questions, as its documentation shows it."""
    texts, pictures = [], []
    for row in rows:
        own = row.values.get("image", [])
        content = [{"type": "image"} for _ in own] + [{"type": "text", "text": row.sample.parts["question"]}]
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False))
        pictures.append(own)
    bos = processor.tokenizer.bos_token
    begun = {"add_special_tokens": False} if bos and texts[0].startswith(bos) else {}
    given = {"images": pictures} if any(pictures) else {}
    return processor(text=texts, **given, padding=True, padding_side="left", return_tensors="pt", **begun)


@every_model
@torch.no_grad()
def test_a_prompt_and_its_logits_are_those_of_transformers(name: str, checkpoint, built):
    model, processor = built(name)
    theirs, own = reference(checkpoint(name))
    for row in opened():
        step = Collator(list(model.tasks.values()), processor)([row])
        [batch] = step.batches
        wanted = asked(own, [row])
        length = int(batch.inputs["prompt_lengths"][0])
        assert batch.inputs["input_ids"][0, :length].tolist() == wanted["input_ids"][0].tolist()
        fused = model.eval().fuse(batch.inputs, model.encode(step.pool))
        expected = theirs(**wanted).logits
        torch.testing.assert_close(model.text_logits(fused)[:, :length], expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@every_model
@torch.no_grad()
def test_one_row_alone_is_bit_equal(name: str, checkpoint, built):
    model, _ = built(name)
    theirs, own = reference(checkpoint(name))
    wanted = asked(own, opened()[:1])
    assert torch.equal(model.eval()(**wanted).logits, theirs(**wanted).logits)


@every_model
@torch.no_grad()
def test_greedy_answers_are_those_of_transformers(name: str, checkpoint, built):
    """One batch: pictures of several sizes, none, and two; prompts of several lengths."""
    model, processor = built(name)
    theirs, own = reference(checkpoint(name))
    step = Collator(list(model.tasks.values()), processor)(opened())
    [batch] = step.batches
    prompts, settings = prompts_alone(batch, processor.pad_id), {"max_new_tokens": 6, "do_sample": False}
    length = prompts["input_ids"].shape[1]
    ours = model.eval().generate(**prompts, streams=model.encode(step.pool), **settings)[:, length:]
    wanted = asked(own, opened())
    assert ours.tolist() == theirs.generate(**wanted, **settings)[:, wanted["input_ids"].shape[1] :].tolist()
    for row, written in zip(opened(), ours.tolist(), strict=True):
        single = asked(own, [row])
        alone = theirs.generate(**single, **settings)[0, single["input_ids"].shape[1] :].tolist()
        assert written[: len(alone)] == alone and set(written[len(alone) :]) <= {processor.pad_id}
    assert len({tuple(row) for row in ours.tolist()}) > 1
    answers = [p.output for p in model.tasks["answer"].predict(model, batch, model.encode(step.pool))]
    assert answers == processor.decode_texts(ours)


@every_model
@torch.no_grad()
def test_beams_share_their_pictures(name: str, checkpoint, built):
    model, processor = built(name)
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("transformers before 5.19")
    theirs, own = reference(checkpoint(name))
    step = Collator(list(model.tasks.values()), processor)(opened())
    prompts, settings = prompts_alone(step.batches[0], processor.pad_id), {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    ours = model.eval().generate(**prompts, streams={}, **settings)[:, prompts["input_ids"].shape[1] :]
    wanted = asked(own, opened())
    expected = theirs.generate(**wanted, **settings, eos_token_id=model.generation_config.eos_token_id)[:, wanted["input_ids"].shape[1] :]
    assert ours.tolist() == expected.tolist()


def test_one_that_is_stored_in_16_bits_is_kept_in_32(checkpoint, tmp_path: Path):
    """As nearly all on the Hub are; what trains needs the small differences."""
    for file in checkpoint("idefics3").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    transformers.AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model, _ = assembled(tmp_path, train={"lora": {"rank": 2}})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "saved")
    halved = AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in halved.parameters()} == {torch.bfloat16}
    whole = AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved")
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}
