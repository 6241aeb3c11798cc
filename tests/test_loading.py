"""What is never opened, run or passed over when a checkpoint or a run is loaded: one table for each kind of trouble."""

from __future__ import annotations

import builtins
import json
import math
import os
import pickle
import shutil
import struct
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent / "contracts"))
from tiny_models import GPT2, NEITHER_DROPS, SMALL, VIT, WORDS, picture, rows

import chiasm
from chiasm.assemble import build
from chiasm.data.opening import open_file
from chiasm.loading import listed
from chiasm.media.features import Features
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.model_files import load_model, save_model, sha256
from chiasm.recipe import load_recipe
from chiasm.types import BadInput, ChiasmError

EYE = {**{k: v for k, v in VIT.items() if k != "arch"}, "num_hidden_layers": 2, "image_size": 16}
READER = {k: v for k, v in GPT2.items() if k != "arch"}


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """`vit` and `gpt2`, tiny checkpoints that transformers saved, and `run`, a run folder of a model made fresh."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    tokenizer = learn_tokenizer(WORDS, kind="words", vocab_size=100, placeholders=[])
    tokenizer.save_pretrained(folder / "gpt2")
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**READER, **ids)).save_pretrained(folder / "gpt2")
    transformers.ViTModel(transformers.ViTConfig(**EYE), add_pooling_layer=False).save_pretrained(folder / "vit")
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "vit")
    recipe = load_recipe(recipe_of({"arch": "vit", **EYE, **NEITHER_DROPS}, {**GPT2, "tokenizer": "words"}))
    model, processor = build(recipe, rows(), WORDS)
    save_model(model.eval(), processor, folder / "run" / "model")
    (folder / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


@pytest.fixture
def copies(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copies"))


def recipe_of(eye: Any, reader: Any, **more: Any) -> dict[str, Any]:
    inputs = {"image": {"modality": "image", "size": 16}, "question": "text"}
    task = {"type": "generate", "prompt": "{question}", "target": "{answer}"}
    return {
        "inputs": inputs,
        "encoders": {"image": eye},
        "backbone": reader,
        "fusion": "cross_attention",
        "tasks": {"answer": task},
        **more,
    }


def composed(folder: Path, **more: Any) -> Any:
    """A model of the folder's two checkpoints."""
    eye, reader = {"model": str(folder / "vit"), **more.pop("eye", {})}, {"model": str(folder / "gpt2"), **more.pop("reader", {})}
    return build(load_recipe(recipe_of(eye, reader, **more)), rows(), WORDS)[0]


def refused(door: Callable[[], Any], match: str) -> str:
    """The one line of the error that `door` ends with."""
    with pytest.raises(ChiasmError, match=match) as found:
        door()
    assert "\n" not in str(found.value)
    return str(found.value)


def trained(run: Path, log: str) -> None:
    """What training leaves beside the recipe and the model."""
    (run / "checkpoints").mkdir()
    (run / "log.jsonl").write_text(log + "\n", encoding="utf-8")


def edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def reweighed(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a safetensors file in place."""
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


# ---- pickles are not opened


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def write_payload(file: Path, mark: Path) -> None:
    """A file whose unpickling makes `mark`, in the form that goes with its ending."""
    if file.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        torch.save({"weight": Payload(mark)}, file)
    elif file.suffix in (".npy", ".npz"):
        (np.save if file.suffix == ".npy" else np.savez)(file, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    else:
        file.write_bytes(pickle.dumps(Payload(mark)))


PICKLES = ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "model.pkl", "model.pickle", "model.joblib", "model.npy", "model.npz"]


@pytest.mark.parametrize("name", PICKLES)
def test_ml1_a_checkpoint_that_is_a_pickle_is_named_and_not_opened(copies, tmp_path, name):
    mark = tmp_path / "opened"
    for part in ("vit", "gpt2", "run/model"):
        (copies / part / "model.safetensors").unlink()
        write_payload(copies / part / name, mark)
    (copies / "run" / "model" / "MANIFEST.json").unlink()
    said = refused(lambda: composed(copies), f"encoders.image.model .*{name} is a pickle file.*save it as safetensors")
    assert "save_pretrained(NEW)" in said
    edited(copies / "vit" / "config.json", lambda config: config.update(model_type="clip", architectures=["CLIPModel"]))
    refused(lambda: chiasm.convert(copies / "vit", tmp_path / "converted"), f"{name} is a pickle file")
    refused(lambda: chiasm.load(copies / "run"), f"run/model: {name} is a pickle file")
    reader = {"model": str(copies / "gpt2" / name)}
    refused(
        lambda: build(load_recipe(recipe_of({"arch": "vit", **EYE}, reader)), rows(), WORDS), f"backbone.model .*{name} is a pickle file"
    )
    assert not mark.exists()
    if name == "model.pkl":  # the payload is one
        pickle.loads((copies / "vit" / name).read_bytes())
        assert mark.exists()


def test_ml1_a_pickle_beside_safetensors_is_left_alone(copies, tmp_path):
    for part in ("vit", "gpt2"):
        write_payload(copies / part / "training_args.bin", tmp_path / "opened")
        write_payload(copies / part / "optimizer.pt", tmp_path / "opened")
    composed(copies)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["rows.pkl", "rows.joblib", "rows.pt", "rows.npy"])
def test_ml1_data_that_is_a_pickle_is_not_opened(tmp_path, name):
    write_payload(tmp_path / name, tmp_path / "opened")
    refused(lambda: open_file(tmp_path / name), name)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.features.npy", "a.pkl", "a.pth"])
def test_ml1_a_pickle_inside_a_tar_or_a_table_is_not_opened(tmp_path, name):
    write_payload(tmp_path / name, tmp_path / "opened")
    with tarfile.open(tmp_path / "rows.tar", "w") as tar:
        tar.add(tmp_path / name, arcname=name)
    with pytest.raises((BadInput, ChiasmError)):
        Features().open(next(iter(open_file(tmp_path / "rows.tar").read(0).parts.values())))
    with pytest.raises(BadInput, match="expected a list of numbers, found str"):
        Features().open(str(tmp_path / name))
    assert not (tmp_path / "opened").exists()


# ---- code that a checkpoint brings along is not run


def bring_code(folder: Path, mark: Path) -> None:
    (folder / "brought.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Net:\n    pass\nclass Fusion:\n    pass\n")


MAP = {"AutoConfig": "brought.Net", "AutoModel": "brought.Net", "AutoTokenizer": ["brought.Net", None], "AutoImageProcessor": "brought.Net"}
KNOWN = {  # file, change -> what transformers knows by itself is used, the rest is passed over as data
    "config of a known kind": ("config.json", {"auto_map": MAP}),
    "inside a known config": ("config.json", {"text_config": {"auto_map": MAP}}),
    "image processor of a known kind": ("preprocessor_config.json", {"auto_map": MAP}),
    "processor": ("processor_config.json", {"auto_map": MAP, "processor_class": "Net"}),
}
UNKNOWN = {
    "config of an unknown kind": ("config.json", {"auto_map": MAP, "model_type": "brought"}, "needs code of its own .auto_map"),
    "image processor of an unknown kind": (
        "preprocessor_config.json",
        {"auto_map": MAP, "image_processor_type": "Net"},
        "needs code of its own .auto_map|image processor",
    ),
}


@pytest.fixture
def no_questions(monkeypatch):
    def asked(*_: Any) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(builtins, "input", asked)


@pytest.mark.parametrize("name", KNOWN)
def test_ml2_code_that_is_not_needed_is_passed_over(copies, tmp_path, no_questions, name):
    file, change = KNOWN[name]
    bring_code(copies / "vit", tmp_path / "ran")
    if not (copies / "vit" / file).exists():
        (copies / "vit" / file).write_text("{}")
    edited(copies / "vit" / file, lambda config: config.update(change))
    composed(copies)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", UNKNOWN)
def test_ml2_code_that_would_be_needed_is_refused(copies, tmp_path, no_questions, name):
    file, change, says = UNKNOWN[name]
    bring_code(copies / "vit", tmp_path / "ran")
    edited(copies / "vit" / file, lambda config: config.update(change))
    refused(lambda: composed(copies), says)
    if file == "config.json":
        refused(lambda: chiasm.convert(copies / "vit", tmp_path / "run"), says)
    assert not (tmp_path / "ran").exists()


def test_ml2_a_tokenizers_code_is_not_run(copies, tmp_path, no_questions):
    bring_code(copies / "gpt2", tmp_path / "ran")
    edited(copies / "gpt2" / "tokenizer_config.json", lambda config: config.update(auto_map=MAP))
    composed(copies)  # tokenizer.json is all that is needed
    edited(copies / "gpt2" / "tokenizer_config.json", lambda config: config.update(tokenizer_class="Net"))
    composed(copies)
    assert not (tmp_path / "ran").exists()


def test_ml2_a_run_that_names_code_in_its_own_folder_is_refused(copies, tmp_path, no_questions, monkeypatch):
    folder = copies / "run" / "model"
    bring_code(folder, tmp_path / "ran")
    edited(folder / "config.json", lambda config: config["fusion"].update(type="brought:Fusion"))
    (folder / "MANIFEST.json").unlink()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    refused(lambda: chiasm.load(copies / "run"), "config.json names 'brought:Fusion', whose code lies in the folder itself")
    edited(folder / "config.json", lambda config: config["fusion"].update(type="cross_attention") or config.update(auto_map=MAP))
    chiasm.load(copies / "run")
    assert not (tmp_path / "ran").exists()


# ---- every weight is accounted for


def without_layer(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if ".h.1.ln_" in name or name.endswith("ln_f.bias")]:
        del weights[name]


def test_ml3_missing_weights_are_all_listed_by_module(copies):
    reweighed(copies / "gpt2" / "model.safetensors", without_layer)
    said = refused(lambda: composed(copies), "backbone.model .*gpt2: 5 weight\\(s\\) are not in the checkpoint, first 'h.1.ln_1.bias'")
    assert "all: h.1.ln_1 (bias, weight); h.1.ln_2 (bias, weight); ln_f (bias)" in said


def test_ml3_names_are_grouped_by_module_and_number():
    names = ["a.0.b.weight", "a.1.b.weight", "a.1.b.bias", "a.10.b.weight", "c.weight", "d"]
    assert listed(names) == "a.{0,1,10}.b (weight); a.1.b (bias); c (weight); d"


def test_ml3_what_may_be_missing_is_named_in_the_recipe_and_counted(copies):
    reweighed(copies / "gpt2" / "model.safetensors", without_layer)
    reweighed(copies / "vit" / "model.safetensors", lambda weights: weights.pop("layernorm.bias"))
    refused(
        lambda: composed(copies, reader={"allow_missing": ["h.1.ln_*"]}, eye={"allow_missing": ["*"]}),
        "backbone.model .* 1 weight.* first 'ln_f.bias'",
    )
    allowed = {"reader": {"allow_missing": ["h.1.ln_*", "ln_f.bias"]}, "eye": {"allow_missing": ["layernorm.*"]}}
    eye, reader = composed(copies, **allowed).notes
    assert eye == f"encoders.image: 16 parameters are not in {copies / 'vit'} and start at random: layernorm (bias)"
    assert reader.startswith("backbone: 160 parameters are not in") and "h.1.ln_1 (bias, weight)" in reader
    assert (
        composed(copies, reader={"allow_missing": ["h.1.ln_*", "ln_f.bias"]}, eye={"allow_missing": ["*"]}).model.encoders["image"]
        is not None
    )


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
AROUND = {"T5ForConditionalGeneration": (T5, "encoder.final_layer_norm.weight", 32), "LlamaForCausalLM": (SMALL, "lm_head.weight", 960)}


@pytest.mark.parametrize("name", AROUND)
def test_ml3_also_in_what_stands_around_the_body(copies, name):
    (settings, lost, count), kind, where = AROUND[name], getattr(transformers, name), copies / "gpt2"
    ids = {"vocab_size": 30, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    kind(kind.config_class(**{**settings, **ids, "tie_word_embeddings": "T5" in name})).save_pretrained(where)
    reweighed(where / "model.safetensors", lambda weights: weights.pop(lost))
    refused(lambda: composed(copies), f"backbone.model .* 1 weight.* first '{lost}'")
    (note,) = composed(copies, reader={"allow_missing": [lost]}).notes
    assert note == f"backbone: {count} parameters are not in {where} and start at random: {lost.removesuffix('.weight')} (weight)"


RUN_WEIGHTS = {  # change -> what is said
    "missing": (lambda w: w.pop("model.language_model.h.1.ln_1.bias"), "1 weight\\(s\\) are not in the file: .*h.1.ln_1 \\(bias\\)"),
    "unexpected": (
        lambda w: w.update({"model.extra.weight": torch.ones(2)}),
        "1 weight\\(s\\) are nowhere in the model: model.extra \\(weight\\)",
    ),
    "renamed": (
        lambda w: w.update({"model.language_model.h.1.ln_one.bias": w.pop("model.language_model.h.1.ln_1.bias")}),
        "not in the file: .*h.1.ln_1 \\(bias\\); did you mean 'model.language_model.h.1.ln_one.bias'",
    ),
    "misshaped": (
        lambda w: w.update({"model.language_model.ln_f.bias": torch.zeros(3)}),
        "weight 'model.language_model.ln_f.bias' is \\(3,\\) in the file and \\(32,\\) as config.json has it",
    ),
    "not finite": (
        lambda w: w["model.language_model.ln_f.bias"][1:2].fill_(math.nan),
        "weight 'model.language_model.ln_f.bias' has NaN or Inf",
    ),
    "infinite": (
        lambda w: w["model.language_model.wte.weight"][3, 1:2].fill_(math.inf),
        "weight 'model.language_model.wte.weight' has NaN or Inf",
    ),
}


@pytest.mark.parametrize("name", RUN_WEIGHTS)
def test_ml3_a_runs_weights_are_all_there_and_finite(copies, name):
    change, says = RUN_WEIGHTS[name]
    file = copies / "run" / "model" / "model.safetensors"
    reweighed(file, change)
    refused(lambda: chiasm.load(copies / "run"), "model.safetensors: not as it was written")
    (copies / "run" / "model" / "MANIFEST.json").unlink()
    refused(lambda: chiasm.load(copies / "run"), says)


# ---- a configuration that was edited


EDITS = {  # change of a checkpoint's config.json -> what is said
    "more layers": (
        {"n_layer": 5},
        "first 'h.2.*; config.json has n_layer: 5, and the checkpoint 2 layers; all: h.\\{2,3,4\\}.attn.c_attn",
    ),
    "fewer layers": ({"n_layer": 1}, "its config.json has no place for 11 weight\\(s\\) of the checkpoint: .*h.1.attn.c_attn"),
    "wider": ({"n_embd": 48}, "weight '.*' is \\(.*\\) in the checkpoint and \\(.*\\) in the model"),
    "misspelt key": ({"n_layers": 5}, None),
    "wrong type": ({"n_layer": "two"}, "n_layer.*two|two.*n_layer"),
    "no JSON": (None, "config.json is not JSON"),
}


@pytest.mark.parametrize("name", EDITS)
def test_ml4_a_checkpoints_edited_config_is_refused(copies, name):
    change, says = EDITS[name]
    file = copies / "gpt2" / "config.json"
    if change is None:
        file.write_text("{]")
    elif name == "misspelt key":
        edited(file, lambda config: config.update(n_layers=config.pop("n_layer")))
        says = "backbone.model .*: config.json has no key 'n_layers'; did you mean 'n_layer'?"
    else:
        edited(file, lambda config: config.update(change))
    refused(lambda: composed(copies), str(says))


RUN_EDITS = {
    "more layers": (
        lambda c: c["text_config"].update(n_layer=5),
        "69 weight\\(s\\) are not in the file: .*h.\\{2,3,4\\}.attn.c_attn.*; config.json has n_layer: 5, and the checkpoint 2",
    ),
    "fewer layers": (lambda c: c["text_config"].update(n_layer=1), "weight\\(s\\) are nowhere in the model: .*h.1.attn.c_attn"),
    "wider": (lambda c: c["text_config"].update(n_embd=48), "weight '.*' is \\(.*\\) in the file and \\(.*\\) as config.json has it"),
    "misspelt key": (
        lambda c: c["text_config"].update(n_layers=c["text_config"].pop("n_layer")),
        "no key 'text_config.n_layers'; did you mean",
    ),
    "unknown key": (lambda c: c.update(fussion={}), "config.json has no key 'fussion'; did you mean 'fusion'"),
    "wrong type": (lambda c: c["text_config"].update(n_layer="two"), "config.json.* cannot be used: .*n_layer"),
    "wrong option": (lambda c: c["fusion"].update(every="often"), "config.json.* cannot be used: .*every"),
    "unknown component": (
        lambda c: c["fusion"].update(type="crossattention"),
        "unknown fusion 'crossattention'; did you mean 'cross_attention'",
    ),
    "another model": (lambda c: c.update(model_type="gpt2"), "config.json is of a gpt2, not of a Chiasm model"),
}


@pytest.mark.parametrize("name", RUN_EDITS)
def test_ml4_a_runs_edited_config_is_refused(copies, name):
    change, says = RUN_EDITS[name]
    folder = copies / "run" / "model"
    edited(folder / "config.json", change)
    refused(lambda: chiasm.load(copies / "run"), "config.json: not as it was written")
    (folder / "MANIFEST.json").unlink()
    refused(lambda: chiasm.load(copies / "run"), says)


# ---- damage


@pytest.mark.parametrize("name", ["model", "model/config.json", "recipe.yaml"])
def test_a_finished_run_says_what_is_missing(copies, name):
    trained(copies / "run", '{"event": "finished", "step": 2}')
    lost = copies / "run" / name
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    refused(lambda: chiasm.load(copies / "run"), r"run/(model/config.json|recipe.yaml): missing; copy the folder again")


def test_a_run_that_is_being_trained_goes_on(copies):
    shutil.rmtree(copies / "run" / "model")
    trained(copies / "run", '{"step": 1, "loss": 2.5}')
    refused(lambda: chiasm.load(copies / "run"), "training has not finished; go on with chiasm train .*run/recipe.yaml")


def test_what_is_no_run_is_not_taken_for_one(copies):
    data = copies / "runn"
    data.mkdir()
    assert "did you mean" not in refused(lambda: chiasm.load(data), "not a run folder .it has no recipe.yaml")
    (data / "recipe.yaml").write_text("name: mine\n", encoding="utf-8")
    (data / "train.jsonl").write_text("{}\n", encoding="utf-8")
    assert "--resume" not in refused(lambda: chiasm.load(data), "a recipe, but nothing that was trained by it")
    refused(lambda: chiasm.load(copies / "rum"), "there is no such folder.; did you mean '.*/run'")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json", "generation_config.json"])
def test_ml5_one_flipped_bit_or_a_cut_names_the_file(copies, name):
    file = copies / "run" / "model" / name
    whole = file.read_bytes()
    for damaged in (whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:], whole[: len(whole) // 2], b""):
        file.write_bytes(damaged)
        refused(lambda: chiasm.load(copies / "run"), f"{name}: not as it was written")
    file.unlink()
    refused(lambda: chiasm.load(copies / "run"), f"{name}: missing; copy the folder again")
    file.write_bytes(whole)
    chiasm.load(copies / "run")
    (copies / "run" / "model" / "MANIFEST.json").write_text('{"files": [')
    refused(lambda: chiasm.load(copies / "run"), "MANIFEST.json: damaged")


# ---- safetensors files that are none


def tensors(header: dict[str, Any] | str, data: int = 16) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + bytes(data)


def floats(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


TWICE = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
BROKEN = {
    "a header of exabytes": (
        struct.pack("<Q", 1 << 60) + b"{}",
        "cut short or damaged: its header would have 1152921504606846976 of its 10 bytes",
    ),
    "a header longer than any": (struct.pack("<Q", 200 << 20) + b"{}", "cut short or damaged: its header"),
    "nothing": (b"\x02\x00", "cut short or damaged"),
    "no JSON": (tensors("{]"), "damaged header"),
    "a list": (tensors("[1, 2]"), "damaged header"),
    "deep JSON": (tensors("[" * 100_000), "damaged header"),
    "overlapping tensors": (tensors({"a": floats(0, 12), "b": floats(8, 16)}), "tensor 'b' overlaps another"),
    "a hole": (tensors({"a": floats(0, 4), "b": floats(8, 16)}), "tensor 'b' leaves a hole before it"),
    "beyond the end": (tensors({"a": floats(0, 64)}), "is cut short: its tensors take 64 bytes, and it has 16"),
    "bytes left over": (tensors({"a": floats(0, 8)}), "has bytes that no tensor is made of"),
    "one name twice": (tensors(TWICE), "'a' stands there twice"),
    "an unknown type": (tensors({"a": floats(0, 16, dtype="PICKLE")}), "tensor 'a' is of unknown type 'PICKLE'"),
    "a shape beyond 64 bits": (tensors({"a": floats(0, 16, shape=[1 << 40, 1 << 40])}), "tensor 'a' of shape .* does not take 16 bytes"),
    "a shape that wraps to fit": (tensors({"a": floats(0, 16, shape=[(1 << 62) + 1, 4])}), "does not take 16 bytes"),
    "a negative shape": (tensors({"a": floats(0, 16, shape=[-2, -2])}), "that is not of whole numbers"),
    "a negative place": (tensors({"a": floats(-16, 0)}), "that is not of whole numbers"),
    "a shape of text": (tensors({"a": floats(0, 16, shape=["4"])}), "that is not of whole numbers|damaged header"),
    "no type": (tensors({"a": {"shape": [4], "data_offsets": [0, 16]}}), "damaged header: 'dtype'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_ml6_a_broken_safetensors_file_is_refused(copies, name):
    data, says = BROKEN[name]
    for part in ("gpt2", "run/model"):
        (copies / part / "model.safetensors").write_bytes(data)
    (copies / "run" / "model" / "MANIFEST.json").unlink()
    tracemalloc.start()
    refused(lambda: chiasm.load(copies / "run"), f"model.safetensors:? .*{says}")
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()
    refused(lambda: composed(copies), f"backbone.model .*model.safetensors:? .*{says}")


@pytest.mark.parametrize(
    "shard", ["../vit/model.safetensors", "/etc/passwd", "sub/model.safetensors", "gone.safetensors", "weights.bin", ".."]
)
def test_ml6_an_index_may_name_files_of_its_own_folder_only(copies, shard):
    folder = copies / "gpt2"
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))
    (folder / "model.safetensors").unlink()
    refused(lambda: composed(copies), "index.json names '.*', which is no safetensors file in this folder")
    (folder / "model.safetensors.index.json").write_text("[]")
    refused(lambda: composed(copies), "model.safetensors.index.json is no index of safetensors files")


# ---- what was saved is what was there


@torch.no_grad()
def test_ml7_saved_and_loaded_is_the_same_to_the_bit_and_saved_again_the_same_files(copies, tmp_path):
    model, processor = load_model(copies / "run" / "model")
    save_model(model, processor, tmp_path / "again")
    for file in sorted((copies / "run" / "model").iterdir()):
        assert sha256(file) == sha256(tmp_path / "again" / file.name), file.name
    again, reader = load_model(tmp_path / "again")
    texts, pictures = ["is there a red cat ?", "what is this sound ?"], [picture(0), picture(1)]
    for one, other in ((processor(text=texts, images=pictures), reader(text=texts, images=pictures)),):
        assert torch.equal(model.eval()(**one).logits, again.eval()(**other).logits)
        settings = {"max_new_tokens": 5, "do_sample": False}
        assert torch.equal(model.generate(**one, **settings), again.generate(**other, **settings))
