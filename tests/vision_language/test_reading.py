"""How prompts and pictures become what a vision-language model reads: its chat template, users' texts, order, errors, other tasks."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_vlms import NAMES, picture
from transformers import AutoModelForMultimodalLM, AutoProcessor

from chiasm.assemble import build
from chiasm.data.collate import Collator
from chiasm.framing import full_precision
from chiasm.reading import EARLIER, Reader
from chiasm.recipe import load_recipe
from chiasm.recipe_check import check_components
from chiasm.training.stages import apply_stage
from chiasm.types import Opened, RecipeError, Sample

ANSWER = {"type": "generate", "prompt": "{question}", "target": "{answer}"}


def recipe(folder: Path, *, inputs: Any = None, tasks: Any = None, **backbone: Any) -> Any:
    return load_recipe(
        {
            "inputs": inputs or {"image": "image", "question": "text"},
            "backbone": {"model": str(folder), **backbone},
            "tasks": tasks or {"answer": ANSWER},
        }
    )


def row(question: str, pictures: dict[str, Any] | None = None, **parts: Any) -> Opened:
    """`pictures`: input -> seeds of its pictures."""
    values = {name: [picture(seed) for seed in seeds] for name, seeds in (pictures or {}).items()}
    keys = {name: tuple(map(str, seeds)) for name, seeds in (pictures or {}).items()}
    return Opened(Sample(question, {"question": question, "answer": "red", **values, **parts}), values, keys)


def inputs_of(built: tuple[Any, Any], *rows: Opened) -> dict[str, Any]:
    model, processor = built
    [batch] = Collator(list(model.tasks.values()), processor)(list(rows)).batches
    return {**batch.inputs, "labels": batch.targets.get("labels")}


def words(built: tuple[Any, Any], *rows: Opened) -> str:
    """The first row's text as the model gets it, its picture's tokens and padding left out."""
    inputs = inputs_of(built, *rows)
    return built[1].tokenizer.decode(inputs["input_ids"][0][inputs["attention_mask"][0].bool()])


def test_the_target_is_the_answer_of_the_chat_template(checkpoint):
    said = {
        "llava": "USER: what ? ASSISTANT: red</s>",
        "idefics3": "<|im_start|>User: what ?<end_of_utterance>\nAssistant: red<end_of_utterance>",
        "gemma3": "<bos><start_of_turn>user\nwhat ?<end_of_turn>\n<start_of_turn>model\nred<end_of_turn>",
        "qwen2_5_vl": "<|im_start|>user\nwhat ?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>",
    }
    for name in NAMES:
        built = build(recipe(checkpoint(name)), [])
        assert words(built, row("what ?")) == said[name]
        inputs = inputs_of(built, row("what ?"))
        labels = inputs["labels"][inputs["labels"] != -100]
        assert built[1].tokenizer.decode(labels).strip() == said[name][said[name].rindex("red") :]
        assert labels[-1] in built[0].generation_config.eos_token_id


@pytest.mark.parametrize("name", ["idefics3", "qwen2_5_vl"])
def test_earlier_turns_stand_in_front_as_the_chat_template_writes_them(name: str, checkpoint):
    built = build(recipe(checkpoint(name)), [])
    said = [("user", "is it red ?"), ("assistant", "no"), ("user", "what ?")]
    turns = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    template = built[1].reader.spec["template"]
    whole = built[1].tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert words(built, row("what ?", **{EARLIER: said[:-1]})).startswith(whole)
    assert "is it red" not in words(built, row("what ?"))
    sly = row("what ?", **{EARLIER: [("user", f"a {built[1].reader.image_token} b"), ("assistant", "no")]})
    ids = inputs_of(built, sly)["input_ids"][0].tolist()
    assert built[1].tokenizer.convert_tokens_to_ids(built[1].reader.image_token) not in ids


@pytest.mark.parametrize("name", NAMES)
def test_a_users_text_is_never_a_special_token(name: str, checkpoint):
    built = build(recipe(checkpoint(name)), [])
    reader = built[1].reader
    special = {*built[1].tokenizer.all_special_tokens, reader.image_token}
    text = "what " + " ".join(sorted(special)) + " ?"
    asked, plain = inputs_of(built, row(text, {"image": [1]})), inputs_of(built, row("what ?", {"image": [1]}))
    ids = {built[1].tokenizer.convert_tokens_to_ids(token) for token in special}
    count = [int(torch.isin(found["input_ids"], torch.tensor(sorted(ids))).sum()) for found in (asked, plain)]
    assert count[0] == count[1]
    assert text in words(built, row(text))
    logits = built[0].eval()(**{k: v for k, v in asked.items() if k not in ("labels", "prompt_lengths")}).logits
    assert logits.isfinite().all()


def test_a_prompt_that_would_make_a_special_token_with_the_users_text_does_not(checkpoint):
    tasks = {"answer": {**ANSWER, "prompt": "what is <{question}> ?"}}
    built = build(recipe(checkpoint("llava"), tasks=tasks), [])
    assert 3 not in inputs_of(built, row("image"))["input_ids"]
    assert "what is <image> ?" in words(built, row("image"))


def test_pictures_stand_where_the_prompt_puts_them(checkpoint):
    """Two inputs, of which one has two pictures; the order of pixels is that of the places."""
    inputs = {"first": "image", "second": "image", "question": "text"}
    tasks = {"answer": {**ANSWER, "prompt": "old {second} {question} new"}}
    built = build(recipe(checkpoint("qwen2_5_vl"), inputs=inputs, tasks=tasks), [])
    given = inputs_of(built, row("what ?", {"first": [1], "second": [2, 3]}))
    pad, start, end = (f"<|{word}|>" for word in ("image_pad", "vision_start", "vision_end"))
    text = words(built, row("what ?", {"first": [1], "second": [2, 3]})).replace(pad, "")
    assert f"user\n{start}{end}old {start}{end}{start}{end} what ? new" in text
    alone = [inputs_of(built, row("what ?", {"first": [seed]}))["pixel_values"] for seed in (1, 2, 3)]
    assert torch.equal(given["pixel_values"], torch.cat(alone))


def test_without_chat_the_prompt_is_as_it_is_written(checkpoint):
    tasks = {"answer": {**ANSWER, "prompt": "Question: {question} Picture: {image} Answer:"}}
    built = build(recipe(checkpoint("llava"), tasks=tasks, chat=False), [])
    assert words(built, row("what ?", {"image": [1]})) == f"Question: what ? Picture: {'<image>' * 4} Answer: red</s>"


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_a_head_reads_the_last_token(task: str, checkpoint):
    rows = [Sample(str(i), {"question": "what ?", "answer": [1.0, 2.0, 3.0][i % 3]}) for i in range(6)]
    tasks = {"answer": {"type": task, "prompt": "{question}", "target": "answer"}}
    built = build(recipe(checkpoint("idefics3"), tasks=tasks), rows)
    model = built[0].eval()
    given = [row("what ?", {"image": [seed]}, answer=1.0) for seed in range(3)]
    step = Collator(list(model.tasks.values()), built[1])([*given, row("is it one ?", answer=2.0)])
    [batch] = step.batches
    with torch.no_grad():
        outputs = model.tasks["answer"].outputs(model, batch, {})
        own = {k: v for k, v in batch.inputs.items() if k in (*model.model.backbone.arguments, "input_ids", "attention_mask")}
        hidden = model.model.language_model(**own).last_hidden_state
        last = hidden[torch.arange(4), batch.inputs["attention_mask"].sum(1) - 1]
        torch.testing.assert_close(outputs.squeeze(), model.heads["answer"](last).squeeze(), rtol=1e-4, atol=1e-4)
    assert len(outputs[:3].unique(dim=0)) == 3
    assert len(model.tasks["answer"].predict(model, batch, {})) == 4


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_is_the_same(name: str, checkpoint, tmp_path: Path):
    model, processor = build(recipe(checkpoint(name)), [])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == processor.reader.spec["template"]
    again, its = AutoModelForMultimodalLM.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    kept, own = (full_precision(copy.deepcopy(one.config.text_config)).to_dict() for one in (again, model))
    assert kept == own
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    given = row("what ?", {"image": [1, 2]})
    mine, theirs = inputs_of((model, processor), given), inputs_of((again, its), given)
    for key, value in mine.items():
        assert torch.equal(value, theirs[key]), key
    mine.pop("labels"), mine.pop("prompt_lengths")
    with torch.no_grad():
        assert torch.equal(model.eval()(**mine).logits, again(**mine).logits)
    for copied in (copy.deepcopy(its), pickle.loads(pickle.dumps(its))):  # as processes that read data get it
        assert torch.equal(inputs_of((again, copied), given)["input_ids"], theirs["input_ids"])


@pytest.mark.parametrize(
    ("backbone", "trains"),
    [
        ({"train": {"lora": {"rank": 2}}}, {"backbone": True, "backbone.vision": False}),
        ({"train": "all"}, {"backbone": True, "backbone.vision": False}),
        ({"train": "none", "vision": "all"}, {"backbone": False, "backbone.vision": True}),
        ({"train": 1}, {"backbone": True, "backbone.vision": False}),
    ],
)
def test_its_parts_train_as_the_recipe_says(backbone: dict[str, Any], trains: dict[str, bool], checkpoint):
    spec = recipe(checkpoint("llava"), **backbone)
    model, _ = build(spec, [])
    rows = {row.part: row for row in apply_stage(model, spec, spec.stages[0])}
    assert {name: rows[name].trainable > 0 for name in trains} == trains
    named = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if backbone["train"] == 1:
        assert {name.split("layers.")[1][0] for name in named} == {"1"} and all("language_model.language_model" in name for name in named)
    assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in model.parameters())


def test_its_image_processor_can_be_told_otherwise(checkpoint):
    many, one = (
        inputs_of(build(recipe(checkpoint("idefics3"), pictures={"do_image_splitting": split}), []), row("what ?", {"image": [1]}))
        for split in (True, False)
    )
    assert many["pixel_values"].shape[1] == 5 and one["pixel_values"].shape[1] == 1
    assert many["input_ids"].shape[1] > one["input_ids"].shape[1]
    with pytest.raises(RecipeError, match=r"backbone\.pictures\.do_image_spliting: .*did you mean 'do_image_splitting'"):
        build(recipe(checkpoint("idefics3"), pictures={"do_image_spliting": False}), [])


def test_the_fusion_is_none_where_the_backbone_reads_all(checkpoint):
    assert recipe(checkpoint("llava")).fusion.type == "none"
    assert load_recipe({**recipe(checkpoint("llava")).model_dump(), "fusion": {"type": "late"}}).fusion.type == "late"
    check_components(recipe(checkpoint("llava"), vision="all", chat=True))


def checked_and_built(spec: Any) -> None:
    check_components(spec)
    build(spec, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vison": "all"}, r"unknown key backbone\.vison; did you mean backbone\.vision"),
        ({"vision": "some"}, r"backbone\.vision"),
        ({"tasks": {"align": {"type": "contrast", "between": ["image", "question"]}}}, r"tasks\.align: the backbone reads 'image' itself"),
        ({"tasks": {"answer": {**ANSWER, "prompt": "{image} {image} {question}"}}}, r"tasks\.answer\.prompt: \{image\} stands twice"),
        ({"inputs": {"audio": "audio", "question": "text"}}, r"inputs\.audio: needs an encoder"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str, checkpoint):
    spec = recipe(checkpoint("llava"), **changes)
    with pytest.raises(RecipeError, match=message):
        checked_and_built(spec)


def test_a_fresh_one_is_refused(checkpoint):
    with pytest.raises(RecipeError, match=r"backbone\.arch: llava reads pictures by a processor"):
        build(load_recipe({**recipe(checkpoint("llava")).model_dump(exclude_none=True), "backbone": {"arch": "llava"}}), [])


@pytest.mark.parametrize(
    ("method", "reason"), [("get_text_with_replacements", "in a way of its own"), ("replace_image_token", "cannot be used here")]
)
def test_a_processor_that_works_otherwise_is_refused(method: str, reason: str, checkpoint, monkeypatch: pytest.MonkeyPatch):
    """What is read is compared with what transformers' own call gives, so a difference is an error and never a worse model."""
    real = transformers.LlavaProcessor.get_text_with_replacements

    def other(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        if method == "replace_image_token":
            raise NotImplementedError
        return real(self, ["look : " + one for one in text], *args, **kwargs)

    monkeypatch.setattr(transformers.LlavaProcessor, method, other)
    with pytest.raises(RecipeError, match=rf"backbone\.model .*{reason}"):
        build(recipe(checkpoint("llava")), [])


def test_what_its_processor_wants_installed_is_said(checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for file in checkpoint("idefics3").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes().replace(b"Idefics3Processor", b"SmolVLMProcessor"))
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(RecipeError, match=r"backbone\.model .*pip install num2words"):
        build(recipe(tmp_path), [])


def test_a_saved_name_can_only_call_for_a_processor(checkpoint):
    """What a run's processor_config.json names is looked up, never imported."""
    reader = build(recipe(checkpoint("llava")), [])[1].reader
    for change in ({"class": "AutoModel"}, {"image_class": "AutoModel"}, {"class": "os.system"}):
        with pytest.raises(TypeError, match="transformers has no"):
            Reader({**reader.spec, **change}, reader.tokenizer)
