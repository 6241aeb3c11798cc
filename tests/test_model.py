"""The composite as transformers sees it: arguments, saving, several pictures, the loss, the stock Trainer, what a user's text may do."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor, Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).parent / "contracts"))
from tiny_models import LOG_MEL, WORDS, assembled, picture, prepared, routed, rows, tiny

from chiasm.model import branch_weights, without_bars
from chiasm.types import BadInput, Batch


@pytest.fixture(params=["early", "cross_attention"])
def pair(request):
    return tiny(request.param, "gpt2")


@pytest.mark.parametrize(
    ("wrong", "near"), [("pixel_value", "pixel_values"), ("images_index", "image_index"), ("attention_masks", "attention_mask")]
)
def test_an_unknown_argument_names_the_nearest(pair, wrong, near):
    model, processor = pair
    inputs = prepared(processor, [0])
    for call in (model, model.model, model.generate):
        with pytest.raises(TypeError, match=f"unknown argument '{wrong}'; did you mean '{near}'"):
            call(**inputs, **{wrong: inputs["pixel_values"]})


def test_an_unknown_input_of_the_processor_names_the_nearest(pair):
    with pytest.raises(TypeError, match="unknown input 'imges'; did you mean 'images'"):
        pair[1](text=["yes"], imges=[picture(0)])


def test_a_modality_that_the_model_does_not_read_is_refused():
    _, processor = assembled({"type": "late", "inputs": ["image"]}, "gpt2")
    with pytest.raises(TypeError, match="reads no video; its inputs are: image, audio, question"):
        processor(text=["yes"], videos=[picture(0)])


def test_saved_and_loaded_by_the_auto_classes(pair, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= {p.name for p in tmp_path.iterdir()}
    again, reader = AutoModelForMultimodalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    before, after = prepared(processor, [0, 1, 2]), prepared(reader, [0, 1, 2])
    assert set(before) == set(after) == {*reader.model_input_names} & set(after)
    assert not [key for key in before if not torch.equal(before[key], after[key])]
    weights = again.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert list(again.config.inputs) == ["image", "audio", "question"] and reader.inputs == processor.inputs
    with torch.no_grad():
        torch.testing.assert_close(model(**before).logits, again(**after).logits, rtol=1e-5, atol=1e-5)
        settings = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(model.generate(**before, **settings), again.generate(**after, **settings))
    assert again.generation_config.suppress_tokens == (list(model.config.placeholder_ids.values()) or None)
    headless = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(headless.language_model.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_saved_in_shards(pair, tmp_path):
    model, _ = pair
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    weights = AutoModelForMultimodalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_rows_read_the_units_that_their_index_names(pair):
    """Any order, sharing, absence (-1) and several pictures per row; without an index row r reads unit r."""
    model, processor = pair
    pictures = {i: picture(i) for i in range(3)}
    text = ["what is this sound ?"] * 4
    wanted = [[2], [0, 1], None, [1, 1]]
    listed = processor(text=text, images=[None if w is None else [pictures[i] for i in w] for w in wanted])
    pool = processor(text=text[:3], images=list(pictures.values()))["pixel_values"]
    index = torch.tensor([[2, -1], [0, 1], [-1, -1], [1, 1]])
    given = {"input_ids": listed["input_ids"], "attention_mask": listed["attention_mask"], "pixel_values": pool}
    torch.testing.assert_close(model(**listed).logits, model(**given, image_index=index).logits)
    alone = processor(text=text[:1], images=[pictures[2]])
    last = model(**listed).logits[0][listed["attention_mask"][0].bool()]
    torch.testing.assert_close(last, model(**alone).logits[0], rtol=1e-4, atol=1e-5)
    plain = processor(text=text[:3], images=list(pictures.values()))
    without = {k: v for k, v in plain.items() if k != "image_index"}
    assert torch.equal(model(**plain).logits, model(**without).logits)
    with pytest.raises(ValueError, match="image: 3 item\\(s\\) for 4 row\\(s\\); pass image_index"):
        model(**given)


def test_the_loss_of_labels_is_the_mean_over_labelled_tokens(pair):
    model, processor = pair
    inputs = prepared(processor, [0, 2])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :2] = -100
    output = model(**inputs, labels=labels)
    chosen = [(r, t) for r in range(2) for t in range(1, labels.shape[1]) if labels[r, t] != -100]
    manual = [-output.logits[r, t - 1].log_softmax(-1)[labels[r, t]] for r, t in chosen]
    torch.testing.assert_close(output.loss, torch.stack(manual).mean())
    counted = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(10.0)).loss
    torch.testing.assert_close(counted, torch.stack(manual).sum() / 10)


@torch.no_grad()
def test_logits_to_keep(pair):
    model, processor = pair
    inputs = prepared(processor, [0, 2])
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, model(**inputs).logits[:, -2:])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("backbone", ["gpt2", "t5"])
def test_the_stock_trainer_reports_the_same_loss_however_it_accumulates(backbone, accumulate, tmp_path):
    """Without the sound, whose batch norm would make rows depend on each other."""
    model, processor = copy.deepcopy(tiny("cross_attention", backbone))
    examples = [{**prepared(processor, [0], image=[picture(i)], audio=[None])} for i in range(4)]
    examples = [{k: v[0] for k, v in e.items() if not k.endswith("index")} | {"labels": e["input_ids"][0]} for e in examples]
    with torch.no_grad():
        stacked = {key: torch.stack([e[key] for e in examples]) for key in examples[0]}
        expected = float(model(**stacked).loss)
    settings = {
        "per_device_train_batch_size": 4 // accumulate,
        "gradient_accumulation_steps": accumulate,
        "max_steps": 1,
        "logging_steps": 1,
    }
    arguments = TrainingArguments(str(tmp_path), **settings, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True)
    model.train()
    trainer = Trainer(model, arguments, train_dataset=examples)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-3)


def test_a_users_text_never_becomes_a_special_token(pair):
    model, processor = pair
    task = model.tasks["answer"]
    tricky = [f"is <image> there {s} ?" for s in ("<audio>", "</s>", "<pad>")]
    samples = [type(row)(row.id, {**row.parts, "question": t}) for row, t in zip(rows(3), tricky, strict=True)]
    inputs, _ = task.collate(samples, processor)
    plain, _ = task.collate(rows(3), processor)
    for token in ("<image>", "<audio>"):
        number = processor.tokenizer.get_vocab().get(token, -1)
        count = processor.placeholder_counts.get(token.strip("<>"), 0)
        assert (inputs["input_ids"] == number).sum() == (plain["input_ids"] == number).sum() == 3 * count
    assert ((inputs["input_ids"] == processor.end_id).sum(1) == 1).all()  # the answer's own


def test_a_text_that_is_too_long_is_a_clear_error(pair):
    model, processor = pair
    inputs = processor(text=["cat " * 100], images=[picture(0)])
    for call, settings in ((model, {}), (model.generate, {"max_new_tokens": 2})):
        with pytest.raises(BadInput, match=r"a text of \d+ tokens is longer than the backbone's 64 positions; shorten it") as found:
            call(**inputs, **settings)
        assert "\n" not in str(found.value) and found.value.reason == "too_long"


@torch.no_grad()
def test_a_placeholder_in_the_text_is_the_tasks_path():
    tasks = {"answer": {"type": "generate", "prompt": "{question} {image} answer :", "target": "{answer}"}}
    model, processor = assembled({"type": "early"}, "gpt2", tasks=tasks)
    task, samples = model.tasks["answer"], rows(2)
    inputs, targets = task.collate(samples, processor)
    texts = [f"{s.parts['question']} <image> answer :" for s in samples]
    written = processor(text=texts, images=[s.parts["image"] for s in samples], audio=[s.parts["audio"] for s in samples])
    for row, (ids, mask) in enumerate(zip(written["input_ids"], written["attention_mask"], strict=True)):
        prompt = inputs["input_ids"][row, : inputs["prompt_lengths"][row]]
        assert torch.equal(ids[mask.bool()], prompt)
    batch = Batch(
        "answer", [s.id for s in samples], {**inputs, "image_index": written["image_index"], "audio_index": written["audio_index"]}, targets
    )
    media = {k: v for k, v in written.items() if k not in ("input_ids", "attention_mask")}
    said = task.predict(model, batch, model.encode(model.model.pool_of(media)[0]))
    new = model.generate(**written, max_new_tokens=32, do_sample=False)[:, written["input_ids"].shape[1] :]
    assert [p.output for p in said] == processor.decode_texts(new)


def test_a_text_and_its_pictures_must_match():
    _, processor = tiny("early", "gpt2")
    with pytest.raises(ValueError, match="text 1: 1 <image> for 2 item\\(s\\) of image; write it once per item"):
        processor(text=["<image> yes"], images=[[picture(0), picture(1)]])
    with pytest.raises(ValueError, match="image: 2 item\\(s\\) for 1 text\\(s\\)"):
        processor(text=["yes"], images=[picture(0), picture(1)])
    two = processor(text=["<image> yes <image>"], images=[[picture(0), picture(1)]])
    assert (two["input_ids"] == processor.placeholder_id("image")).sum() == 2 * processor.placeholder_counts["image"]


def test_placeholders_are_never_written():
    model, processor = tiny("early", "gpt2")
    with torch.no_grad():
        written = model.generate(**prepared(processor, [0, 1]), max_new_tokens=8, do_sample=True, temperature=50.0)
    new = written[:, prepared(processor, [0, 1])["input_ids"].shape[1] :]
    assert not torch.isin(new, torch.tensor(list(model.config.placeholder_ids.values()))).any()


@torch.no_grad()
def test_features_of_a_modality(pair):
    model, processor = pair
    inputs = prepared(processor, [0, 1])
    seen, heard = model.get_image_features(inputs["pixel_values"]), model.get_audio_features(inputs["input_values"])
    assert [tuple(v.shape) for v in seen.pooler_output] == [(5, 32)] * 2
    assert [tuple(v.shape) for v in heard.pooler_output] == [(3, 32)] * 2
    encoders = {"audio": LOG_MEL}
    listener, _ = assembled(
        {"type": "late"}, "gpt2", inputs={"audio": {"modality": "audio", "seconds": 0.1}, "question": "text"}, encoders=encoders
    )
    with pytest.raises(TypeError, match="reads no image; its inputs are: audio"):
        listener.get_image_features(inputs["pixel_values"])


@torch.no_grad()
def test_weights_that_change_are_seen_by_the_next_generation(pair):
    """Keys and values are kept for one generation, not longer."""
    model, processor = copy.deepcopy(pair)
    inputs = prepared(processor, [0, 1])
    streams = model.encode(model.model.pool_of({k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")})[0])
    text = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "streams": streams}
    settings = {"max_new_tokens": 1, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    before = model.generate(**text, **settings).scores[0]
    for parameter in model.fusion.parameters():
        parameter.mul_(-2)
    after = model.generate(**text, **settings).scores[0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model.generate(**text, **settings, use_cache=False).scores[0], rtol=1e-4, atol=1e-4)


def test_words_are_known():
    _, processor = tiny("early", "gpt2")
    ids = processor.encode(WORDS, user=True)
    assert processor.tokenizer.unk_token_id not in np.concatenate(ids)
    assert processor.decode_texts(torch.tensor(ids[0]).unsqueeze(0)) == [WORDS[0]]


def test_loading_draws_no_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    model, _ = tiny("late", "gpt2")
    with without_bars():
        model.save_pretrained(tmp_path)
        AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert "it/s" not in (said := capfd.readouterr().err) and "Loading" not in said and "Writing" not in said
    AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert "Loading weights" in capfd.readouterr().err  # theirs again, once we are done


def test_votes_on_several_labels_are_means_of_each_labels_chance(monkeypatch: pytest.MonkeyPatch):
    """Of late decisions on labels that do not shut one another out: all of them may be likelier than not at once."""
    spec = {"type": "classify", "prompt": "{question}", "target": "answer", "multi_label": True, "dropout": 0.0}
    model, processor = assembled({"type": "late", "combine": "decisions"}, "gpt2", tasks={"answer": spec})
    with torch.no_grad():
        model.heads["answer"][-1].bias.fill_(3.0)
    inputs = prepared(processor, [0, 1, 2])
    mask = inputs["attention_mask"]
    fused = model.model(input_ids=inputs["input_ids"], attention_mask=mask, streams=routed(model, inputs), prompt_lengths=mask.sum(1)).fused
    monkeypatch.setattr(model, "fuse", lambda *_: fused)
    pooled = [model.model.backbone.pool(t, fused.words) if name == "text" else t.pooled() for name, t in fused.branches.items()]
    alone = [model.heads["answer"](one) for one in pooled]
    chances = model.tasks["answer"].outputs(model, SimpleNamespace(inputs={}), {}).sigmoid()
    expected = sum(one.sigmoid() * branch_weights(fused)[:, place, None] for place, one in enumerate(alone))
    assert len(alone) == 3 and chances.min() > 0.5
    torch.testing.assert_close(chances, expected, rtol=0, atol=1e-6)
