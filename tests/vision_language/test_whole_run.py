"""What the rest of the library makes of a run whose backbone reads pictures: saving, chat messages, exports, refusals."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_vlms import NAMES, picture

from chiasm.assemble import build
from chiasm.export.engine import export
from chiasm.model_files import MANIFEST, load_model, save_model
from chiasm.recipe import load_recipe
from chiasm.run import load
from chiasm.types import BadInput, ChiasmError, RecipeError, Sample, Shown

AUDIO = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "mels": 8, "tokens": 3}
ANSWER = {"type": "generate", "prompt": "{question}", "target": "{answer}"}


def recipe(folder: Path, **changes: Any) -> Any:
    return load_recipe(
        {"inputs": {"image": "image", "question": "text"}, "backbone": {"model": str(folder)}, "tasks": {"answer": ANSWER}, **changes}
    )


def saved(folder: Path, checkpoint: Path) -> Any:
    """A run folder of a model as it is built, without training."""
    spec = recipe(checkpoint)
    model, processor = build(spec, [])
    save_model(model.eval(), processor, folder / "model")
    (folder / "recipe.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    return model, processor


def data_uri(number: int) -> str:
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def message(picture: dict[str, Any], text: str = "what ?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_read_only_as_it_was_written(name: str, checkpoint, tmp_path: Path):
    model, _ = saved(tmp_path, checkpoint(name))
    again, processor = load_model(tmp_path / "model")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert processor.reads == ("image",)
    save_model(again, processor, tmp_path / "again")
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (tmp_path / "model" / MANIFEST).read_bytes()
    weights = tmp_path / "model" / "model.safetensors"
    kept = load_file(weights)
    key = next(key for key in sorted(kept) if "vision" in key or "visual" in key)
    save_file({k: v for k, v in kept.items() if k != key}, weights, metadata={"format": "pt"})
    with pytest.raises(ChiasmError, match=r"model\.safetensors: not as it was written"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / MANIFEST).unlink()
    with pytest.raises(ChiasmError, match=r"1 weight\(s\) are not in the file"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("name", NAMES)
def test_a_message_becomes_what_the_model_was_trained_to_read(name: str, checkpoint):
    model, processor = build(recipe(checkpoint(name)), [])
    given = processor.apply_chat_template(
        message({"type": "image", "url": data_uri(1)}), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    tensors, shown = processor.reader.see([[picture(1)]])
    ids = processor.reader.prompts(model.tasks["answer"].prompt, [Sample("row", {"question": "what ?", "image": Shown(shown[0])})])
    assert given["input_ids"].tolist() == ids
    assert all(torch.equal(given[key], value) for key, value in tensors.items() if key in model.model.backbone.arguments)
    opened = {"type": "image_url", "image_url": {"url": data_uri(1)}}
    twice = processor.apply_chat_template([message(opened), message(opened, "which one ?")], tokenize=True, return_dict=True)
    assert twice["input_ids"].shape[0] == 2 and twice["attention_mask"].shape == twice["input_ids"].shape
    with pytest.raises(BadInput, match="must be a data URI"):
        processor.apply_chat_template(message({"type": "image", "url": "/etc/hostname"}), tokenize=True)
    with torch.no_grad():
        assert model.eval()(**{k: v for k, v in given.items() if k != "mm_token_type_ids"}).logits.isfinite().all()


def test_the_processor_opens_pictures_as_training_does(checkpoint, tmp_path: Path):
    """Paths, data URIs, pictures and arrays are one; a flat list is dealt out by the pictures that the texts have."""
    _, processor = build(recipe(checkpoint("idefics3")), [])
    Image.fromarray(picture(1)).save(tmp_path / "one.png")
    text = f"{processor.image_token} what ?"
    given = [processor(text=text, images=[value]) for value in (picture(1), Image.fromarray(picture(1)), tmp_path / "one.png", data_uri(1))]
    assert all(torch.equal(given[0]["pixel_values"], other["pixel_values"]) for other in given)
    dealt = processor(text=[text, "where ?", 2 * processor.image_token], images=[picture(1), picture(2), picture(3)])
    assert dealt["input_ids"].shape[0] == 3
    with pytest.raises(TypeError, match=r"unknown input 'imgae'.*image"):
        processor(text=text, imgae=[picture(1)])
    assert processor.image_processor is processor.reader.processor.image_processor


def test_it_is_exported_where_the_target_can_hold_it(checkpoint, tmp_path: Path):
    saved(tmp_path / "run", checkpoint("llava"))
    (tmp_path / "run" / "metrics.json").write_text("{}", encoding="utf-8")
    run = load(tmp_path / "run")
    found = export(run, to="hub", output=tmp_path / "hub")
    card = (found.folder / "README.md").read_text("utf-8")
    assert r"USER: <image>\n... ASSISTANT:" in card and json.loads((found.folder / "processor_config.json").read_text("utf-8"))["reading"]
    assert load_model(found.folder)[1].reads == ("image",)
    for to, reason in (("transformers", "this run's backbone reads pictures itself"), ("onnx", "--to onnx: a vision-language backbone")):
        with pytest.raises(ChiasmError, match=reason):
            export(run, to=to, output=tmp_path / to)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {"answer": {**ANSWER, "prompt": "{turns}", "repeat": {"turns": "{question}"}}}}, r"tasks\.answer\.repeat: "),
        ({"tasks": {"match": {"type": "match", "between": ["image", "question"]}}}, r"tasks\.match: the backbone reads 'image' itself"),
        (
            {
                "inputs": {"image": "image", "audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 0.2}, "question": "text"},
                "encoders": {"audio": AUDIO},
                "fusion": {"type": "gated_cross_attention", "see": "last"},
            },
            r"fusion\.see: it marks in the sequence where each 'audio' stands",
        ),
    ],
)
def test_what_has_no_meaning_there_is_refused(changes: dict[str, Any], message: str, checkpoint):
    with pytest.raises(RecipeError, match=message):
        build(recipe(checkpoint("llava"), **changes), [])


def test_a_key_of_its_text_model_is_no_misspelling(checkpoint, tmp_path: Path):
    """Gemma 3's config.json says eos_token_id beside its own eoi_token_index."""
    for file in checkpoint("gemma3").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    build(recipe(tmp_path), [])
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["eoi_token_indx"] = config.pop("eoi_token_index")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"no key 'eoi_token_indx'; did you mean 'eoi_token_index'"):
        build(recipe(tmp_path), [])
