"""Composing pretrained checkpoints by path: every weight is the checkpoint's or the recipe is refused, and preprocessing is taken over."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent / "contracts"))
from tiny_models import GPT2, VIT, WORDS, rows

from chiasm.assemble import build
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.recipe import load_recipe
from chiasm.training.stages import apply_stage
from chiasm.types import RecipeError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.2}
DECODER = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
EYE = {**{k: v for k, v in VIT.items() if k != "arch"}, "image_size": 24}
EAR = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
WAVES = {"conv_dim": [8], "conv_kernel": [10], "conv_stride": [5], "num_feat_extract_layers": 1, "feat_extract_norm": "layer"}
GROUPS = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
MEL = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "max_source_positions": 50}
SPEAK = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "max_target_positions": 16, "vocab_size": 40}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
CHECKPOINTS = {
    "gpt2": ("GPT2LMHeadModel", {**{k: v for k, v in GPT2.items() if k != "arch"}}),
    "llama": ("LlamaForCausalLM", {**DECODER, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3ForCausalLM", {**DECODER, "tie_word_embeddings": True}),
    "bert": ("BertForMaskedLM", {**SMALL, "max_position_embeddings": 64}),
    "roberta": ("RobertaForMaskedLM", {**SMALL, "max_position_embeddings": 64}),
    "t5": ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
    "vit": ("ViTForImageClassification", EYE),
    "clip": ("CLIPModel", {"projection_dim": 8, "vision_config": EYE, "text_config": {**EAR, "vocab_size": 30}}),
    "resnet": ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [12, 16], "depths": [1, 1], "layer_type": "basic"}),
    "wav2vec2": ("Wav2Vec2ForCTC", {**EAR, **WAVES, **GROUPS, "vocab_size": 12}),
    "whisper": ("WhisperForConditionalGeneration", {**MEL, **SPEAK, **SPECIAL}),
}
PREPROCESSING = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 24, "width": 24}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
    "resnet": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 32}}),
    "wav2vec2": ("Wav2Vec2FeatureExtractor", {"sampling_rate": 8000, "return_attention_mask": True}),
    "whisper": ("WhisperFeatureExtractor", {"chunk_length": 1}),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    """A folder with a tiny checkpoint of each architecture, saved by transformers."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, (kind, settings) in CHECKPOINTS.items():
        torch.manual_seed(1)
        model_class = getattr(transformers, kind)
        if name in ("gpt2", "llama", "qwen3", "bert", "roberta", "t5", "clip"):
            tokenizer = learn_tokenizer(WORDS, kind="words", vocab_size=100, placeholders=[])
            tokenizer.save_pretrained(folder / name)
            ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
            settings = {**settings, "text_config": {**settings["text_config"], **ids}} if name == "clip" else {**settings, **ids}
        model = model_class(model_class.config_class(**settings))
        with torch.no_grad():  # no parameter may be mistaken for a fresh one
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
        if name in PREPROCESSING:
            reader, options = PREPROCESSING[name]
            getattr(transformers, reader)(**options).save_pretrained(folder / name)
    return folder


def composed(image=None, audio=None, backbone=None, fusion="cross_attention", **changes):
    """(model, processor) of parts given by path or as recipe sections."""
    given = {"image": image, "audio": audio}
    encoders = {name: {"model": str(part), **({"grid": 2} if "resnet" in str(part) else {})} for name, part in given.items() if part}
    read = backbone if isinstance(backbone, dict) else {"model": str(backbone)}
    task = {"type": "classify", "target": "answer"} if "bert" in str(backbone) else {"type": "generate", "target": "{answer}"}
    if fusion == "none":
        task = {"type": "contrast", "between": [next(iter(encoders)), "question"]}
    recipe = {
        "inputs": {**{name: name for name in encoders}, "question": "text"},
        "encoders": encoders,
        "backbone": read,
        "fusion": fusion,
        "tasks": {"answer": task},
        **changes,
    }
    model, processor = build(load_recipe(recipe), rows(), WORDS)
    return model.eval(), processor


def assert_weights(part, reference, *, rows_may_be_added=()):
    """Every weight of `part` is bit for bit the one that `reference` has under the same name."""
    theirs = reference.state_dict()
    for name, weight in part.state_dict().items():
        if name in rows_may_be_added:
            assert torch.equal(weight[: len(theirs[name])], theirs[name])
        else:
            assert torch.equal(weight, theirs[name]), name


def media():
    return {
        "image": np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8),
        "audio": np.linspace(-0.5, 0.5, 800, dtype=np.float32),
    }


@pytest.mark.parametrize("backbone", ["gpt2", "llama", "qwen3", "bert"])
@pytest.mark.parametrize("fusion", ["cross_attention", "gated_cross_attention", "early", "late", "none"])
def test_the_backbones_weights_are_the_checkpoints(checkpoints, backbone, fusion):
    model, processor = composed(checkpoints / "vit", backbone=checkpoints / backbone, fusion=fusion)
    whole = getattr(transformers, CHECKPOINTS[backbone][0]).from_pretrained(checkpoints / backbone)
    words = next(n for n, m in model.model.language_model.named_modules() if m is model.get_input_embeddings()) + ".weight"
    assert_weights(model.model.language_model, whole.base_model, rows_may_be_added=[words])
    embeddings, old = model.get_input_embeddings().weight, whole.get_input_embeddings().weight
    assert len(embeddings) == len(processor.tokenizer) == len(old) + (fusion == "early")
    if fusion == "early":
        assert processor.placeholder_id("image") == model.config.image_token_id == len(old)
        torch.testing.assert_close(embeddings[-1], old.mean(0))
    if model.lm_head is not None:
        assert (model.lm_head.weight is embeddings) == (backbone != "llama")
        assert torch.equal(model.lm_head.weight[: len(old)], whole.get_output_embeddings().weight)
    inputs = processor(text=["what is this sound ?"], images=[media()["image"]])
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).last_hidden_state if model.lm_head is None else model(**inputs).logits).all()


@pytest.mark.parametrize("name", ["vit", "clip", "resnet", "wav2vec2", "whisper"])
def test_an_encoders_weights_are_the_checkpoints(checkpoints, name):
    kind = "audio" if name in ("wav2vec2", "whisper") else "image"
    model, processor = composed(**{kind: checkpoints / name}, backbone=checkpoints / "gpt2")
    whole = getattr(transformers, CHECKPOINTS[name][0]).from_pretrained(checkpoints / name)
    inner = {"clip": lambda m: m.vision_model, "whisper": lambda m: m.model.encoder}.get(name, lambda m: m.base_model)(whole)
    network = model.model.encoders[kind].network
    assert sum(p.numel() for p in network.parameters()) > 1000
    assert_weights(network, inner)
    inputs = processor(text=["what is this sound ?"], **{"images" if kind == "image" else "audio": [media()[kind]]})
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_preprocessing_is_taken_over(checkpoints):
    _, processor = composed(checkpoints / "vit", checkpoints / "wav2vec2", checkpoints / "gpt2")
    seen = processor.modalities["image"].options
    assert (seen.size, seen.resize) == ((24, 24), "squash")
    assert seen.mean == pytest.approx((0.1, 0.2, 0.3)) and seen.std == pytest.approx((0.4, 0.5, 0.6))
    assert processor.modalities["audio"].options.sampling_rate == 8000
    _, processor = composed(checkpoints / "clip", checkpoints / "whisper", checkpoints / "gpt2")
    seen = processor.modalities["image"].options
    assert (seen.size, seen.resize) == ((24, 24), "crop")
    assert seen.mean == pytest.approx(transformers.image_utils.OPENAI_CLIP_MEAN)
    assert processor.modalities["audio"].options.sampling_rate == 16000
    _, processor = composed(checkpoints / "resnet", backbone=checkpoints / "gpt2")
    assert processor.modalities["image"].options.size == 32


def test_pictures_are_prepared_as_the_checkpoints_own_processor_does(checkpoints):
    for name in ("vit", "clip"):
        _, processor = composed(checkpoints / name, backbone=checkpoints / "gpt2")
        reader = getattr(transformers, PREPROCESSING[name][0]).from_pretrained(checkpoints / name)
        theirs = reader(media()["image"], return_tensors="pt")["pixel_values"]
        ours = processor(text=["yes"], images=[media()["image"]])["pixel_values"]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_inputs_own_setting_wins(checkpoints):
    inputs = {"image": {"modality": "image", "mean": [0.0, 0.0, 0.0]}, "question": "text"}
    _, processor = composed(checkpoints / "vit", backbone=checkpoints / "gpt2", inputs=inputs)
    assert processor.modalities["image"].options.mean == (0.0, 0.0, 0.0) and processor.modalities["image"].options.size == (24, 24)


def test_closed_gates_give_the_plain_gpt2_of_the_checkpoint(checkpoints):
    model, processor = composed(checkpoints / "vit", backbone=checkpoints / "gpt2", fusion="gated_cross_attention")
    plain = transformers.GPT2LMHeadModel.from_pretrained(checkpoints / "gpt2").eval()
    inputs = processor(text=["a blue dog and a green house"], images=[media()["image"]])
    with torch.no_grad():
        expected = plain(input_ids=inputs["input_ids"]).logits
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
        written = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert torch.equal(written, plain.generate(inputs["input_ids"], max_new_tokens=6, do_sample=False))


def test_a_backbones_own_cross_attention_is_fresh_and_the_rest_is_not(checkpoints):
    model, _ = composed(checkpoints / "vit", backbone=checkpoints / "gpt2", fusion={"type": "cross_attention", "weights": "backbone"})
    whole = transformers.GPT2LMHeadModel.from_pretrained(checkpoints / "gpt2").transformer.state_dict()
    own = model.model.language_model.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in whole.items())
    assert {name.split(".")[2] for name in set(own) - set(whole)} == {"crossattention", "ln_cross_attn"}


# ---- a text with an encoder of its own


def with_caption(encoder, fusion="gated_cross_attention", backbone=None, **changes):
    """(model, processor) of a caption that `encoder` reads and a question that the backbone reads."""
    changes = {"inputs": {"caption": {"modality": "text", "column": "question"}, "question": "text"}, **changes}
    return composed(backbone=backbone, fusion=fusion, encoders={"caption": encoder}, **changes)


def told(processor, *captions):
    return processor(text=["what is this sound ?"] * len(captions), caption=list(captions))


TOLD = ("a blue dog and a green house", "yes", "is there a red cat ?")


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "t5", "clip"])
def test_a_texts_encoder_is_the_checkpoints(checkpoints, name):
    model, processor = with_caption({"model": str(checkpoints / name)}, backbone=checkpoints / "gpt2", fusion="cross_attention")
    whole = getattr(transformers, CHECKPOINTS[name][0]).from_pretrained(checkpoints / name)
    inner = {"t5": lambda m: m.encoder, "clip": lambda m: m.text_model}.get(name, lambda m: m.base_model)(whole)
    network = model.model.encoders["caption"].network
    assert sum(p.numel() for p in network.parameters()) > 1000
    assert_weights(network, inner)
    inputs = told(processor, *TOLD)
    theirs = transformers.AutoTokenizer.from_pretrained(checkpoints / name)(list(TOLD), padding=True, padding_side="right")
    assert inputs["token_ids"].tolist() == theirs["input_ids"] and inputs["token_mask"].long().tolist() == theirs["attention_mask"]
    with torch.no_grad():
        expected = inner(input_ids=inputs["token_ids"], attention_mask=inputs["token_mask"].long()).last_hidden_state
        streams = model.model.encode_features("caption", {key: inputs[key] for key in ("token_ids", "token_mask")})
        torch.testing.assert_close(streams.values[streams.mask], expected[streams.mask])
        logits = model(**inputs).logits
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("fusion", ["gated_cross_attention", "cross_attention", "late"])
def test_a_stream_of_text_reaches_the_output_and_is_saved(checkpoints, tmp_path, fusion):
    model, processor = with_caption({"model": str(checkpoints / "bert")}, fusion, checkpoints / "gpt2")
    assert processor.modalities["caption"].options.max_tokens == 64
    for gate in model.fusion.gates():
        gate.data.fill_(0.5)
    inputs = told(processor, *TOLD)
    with torch.no_grad():
        logits = model(**inputs).logits
        assert not torch.allclose(logits, model(**told(processor, *reversed(TOLD))).logits, atol=1e-4)
        torch.testing.assert_close(model(**told(processor, TOLD[1])).logits, logits[1:2], rtol=1e-4, atol=1e-5)  # padding is not seen
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        again = transformers.AutoModelForMultimodalLM.from_pretrained(tmp_path).eval()
        reader = transformers.AutoProcessor.from_pretrained(tmp_path)
        assert torch.equal(again(**told(reader, *TOLD)).logits, logits)
        assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
    with pytest.raises(TypeError, match="token_ids"):
        model(**{**inputs, "token_id": inputs["token_ids"]})


def test_a_fresh_text_encoder_takes_the_tokenizers_vocabulary(checkpoints):
    inputs = {"caption": {"modality": "text", "column": "question", "tokenizer": "words"}, "note": {"modality": "text", "column": "answer"}}
    encoders = {"caption": {"arch": "roberta", **SMALL, "max_position_embeddings": 40}, "note": {"arch": "bert", **SMALL}}
    backbone = {"kind": "latent", "arch": "bert", **SMALL}
    tasks = {"choice": {"type": "classify", "target": "answer"}}
    model, processor = composed(backbone=backbone, inputs=inputs, encoders=encoders, tasks=tasks)
    caption, note = (model.model.encoders[name] for name in ("caption", "note"))
    assert len(caption.network.get_input_embeddings().weight) == processor.modalities["caption"].vocab_size < 40
    assert len(note.network.get_input_embeddings().weight) == processor.modalities["note"].vocab_size > 256
    assert caption.network.config.pad_token_id == 0 and processor.modalities["caption"].options.max_tokens == 38
    given = processor(caption=["word " * 100, "yes"], note=["yes", None])
    assert given["token_ids"].shape == (2, 38) and given["note_token_ids"].shape[0] == 1
    with torch.no_grad():
        assert torch.isfinite(model(**given).last_hidden_state).all()


def test_a_text_of_any_length_cannot_be_put_into_the_sequence(checkpoints):
    with pytest.raises(RecipeError, match="inputs.caption: early fusion needs a fixed number of tokens.*cross_attention"):
        with_caption({"model": str(checkpoints / "bert")}, "early", checkpoints / "gpt2")


# ---- what is refused


@pytest.fixture
def copy_of(checkpoints, tmp_path):
    def copied(name):
        return Path(shutil.copytree(checkpoints / name, tmp_path / name))

    return copied


def changed(folder, change):
    """Edit the weights of a checkpoint folder."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def refused(match, **parts):
    with pytest.raises(RecipeError, match=match) as found:
        composed(**parts)
    assert "\n" not in str(found.value)


def key_of(folder, *words):
    """The checkpoint's name of the weight that has all of `words` in it."""
    names = sorted(load_file(folder / "model.safetensors"), reverse=True)
    return next(name for name in names if all(word in name for word in words) and "decoder" not in name)


NORMS = {
    "gpt2": ("backbone", ["ln_1.weight"]),
    "llama": ("backbone", ["input_layernorm.weight"]),
    "vit": ("encoders.image", ["layernorm_before.weight"]),
    "clip": ("encoders.image", ["vision_model", "layer_norm1.weight"]),
    "whisper": ("encoders.audio", ["encoder", "self_attn_layer_norm.weight"]),
    "wav2vec2": ("encoders.audio", ["encoder.layers.0.layer_norm.weight"]),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_missing_weight_is_refused_by_name(copy_of, checkpoints, name):
    folder, (part, words) = copy_of(name), NORMS[name]
    key = key_of(folder, *words)
    changed(folder, lambda weights: weights.pop(key))
    parts = {"image": checkpoints / "vit", "backbone": checkpoints / "gpt2", part.rpartition(".")[2]: folder}
    refused(f"{part}.model .*1 weight\\(s\\) are not in the checkpoint, first '.*{key.split('.')[-2]}.weight'", **parts)


def test_a_renamed_weight_is_refused_with_the_near_name(copy_of, checkpoints):
    folder = copy_of("gpt2")
    changed(folder, lambda w: w.update({"transformer.h.0.ln_one.weight": w.pop("transformer.h.0.ln_1.weight")}))
    refused("first 'h.0.ln_1.weight'; did you mean '.*h.0.ln_one.weight'", backbone=folder, image=checkpoints / "vit")


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_a_misshaped_weight_is_refused_by_name(copy_of, checkpoints, name):
    folder = copy_of(name)
    key = key_of(folder, "ln_1.weight" if name == "gpt2" else "layernorm_before.weight")
    changed(folder, lambda weights: weights.update({key: weights[key][:-1].clone()}))
    parts = {"backbone": folder, "image": checkpoints / "vit"} if name == "gpt2" else {"image": folder, "backbone": checkpoints / "gpt2"}
    refused(f"weight '.*{key.split('.')[-2]}.weight' is \\(\\d+,\\) in the checkpoint and \\(\\d+,\\) in the model", **parts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(copy_of, checkpoints, value):
    folder = copy_of("gpt2")
    changed(folder, lambda weights: weights["transformer.h.1.mlp.c_fc.weight"].view(-1)[3:4].fill_(value))
    refused("weight 'h.1.mlp.c_fc.weight' has NaN or Inf", backbone=folder, image=checkpoints / "vit")


@pytest.mark.parametrize("name", ["gpt2", "vit", "llama"])
def test_pickles_are_refused(copy_of, checkpoints, name):
    folder = copy_of(name)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    parts = {"image": folder, "backbone": checkpoints / "gpt2"} if name == "vit" else {"backbone": folder, "image": checkpoints / "vit"}
    refused("safetensors", **parts)


def test_an_untied_head_that_is_missing_is_refused(copy_of, checkpoints):
    folder = copy_of("llama")
    changed(folder, lambda weights: weights.pop("lm_head.weight"))
    refused("'lm_head.weight'", backbone=folder, image=checkpoints / "vit")


def test_a_name_that_is_no_checkpoint_is_refused(checkpoints, tmp_path):
    refused("backbone.model .*nowhere", backbone=tmp_path / "nowhere", image=checkpoints / "vit")
    refused("encoders.image.model .*nowhere", backbone=checkpoints / "gpt2", image=tmp_path / "nowhere")


def test_a_checkpoint_whose_config_is_another_architectures(copy_of, checkpoints):
    folder = copy_of("vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    refused("weight\\(s\\) are not in the checkpoint, first 'layers.1", image=folder, backbone=checkpoints / "gpt2")


# ---- low-rank adapters


def lora_parts(checkpoints, backbone="gpt2", **lora):
    encoders = {"image": {"model": str(checkpoints / "vit"), "train": {"lora": {"rank": 2}}}}
    adapted = {"model": str(checkpoints / backbone), "train": {"lora": {"rank": 4, **lora}}}
    return composed(backbone=adapted, encoders=encoders, inputs={"image": "image", "question": "text"})


@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
def test_adapters_start_as_no_change_and_are_saved(checkpoints, tmp_path, backbone):
    adapted, processor = lora_parts(checkpoints, backbone)
    plain, _ = composed(checkpoints / "vit", backbone=checkpoints / backbone)
    weights = adapted.state_dict()
    bare = {key.replace(".base_layer.", "."): value for key, value in weights.items() if "lora_" not in key}
    assert set(bare) == set(plain.state_dict()) and len(weights) > len(bare)
    plain.load_state_dict(bare)
    inputs = processor(text=["what is this sound ?"], images=[media()["image"]])
    with torch.no_grad():
        torch.testing.assert_close(adapted(**inputs).logits, plain(**inputs).logits, rtol=1e-5, atol=1e-5)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        changed_logits = adapted(**inputs).logits
        assert not torch.allclose(changed_logits, plain(**inputs).logits, atol=1e-2)
        adapted.save_pretrained(tmp_path)
        loaded = transformers.AutoModelForMultimodalLM.from_pretrained(tmp_path)
        assert set(loaded.state_dict()) == set(weights)
        torch.testing.assert_close(loaded(**inputs).logits, changed_logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(adapted)(**inputs).logits, changed_logits)


def test_only_adapters_train_and_each_gets_a_gradient(checkpoints):
    adapted, processor = lora_parts(checkpoints, dropout=0.0)
    recipe = load_recipe(
        {
            "inputs": {"image": "image", "question": "text"},
            "encoders": {"image": {"model": "vit", "train": {"lora": {"rank": 2}}}},
            "backbone": {"model": "gpt2", "train": {"lora": {"rank": 4}}},
            "tasks": {"answer": {"type": "generate", "target": "{answer}"}},
        }
    )
    table = {row.part: row for row in apply_stage(adapted, recipe, recipe.stages[0])}
    assert 0 < table["backbone"].trainable < table["backbone"].parameters / 3
    assert 0 < table["encoders.image"].trainable < table["encoders.image"].parameters / 3
    assert table["fusion"].trainable == table["fusion"].parameters > 0
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    inputs = processor(text=["what is this sound ?"], images=[media()["image"]])
    adapted(**inputs).logits.square().sum().backward()
    for name, parameter in adapted.named_parameters():
        inside = name.startswith(("model.language_model.", "model.encoders."))
        assert parameter.requires_grad == ("lora_" in name) or not inside, name
        if "lora_" in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_adapters_may_name_their_layers(checkpoints):
    adapted, _ = lora_parts(checkpoints, targets=["c_attn"], rank=3, alpha=6.0)
    found = {name for name, module in adapted.model.language_model.named_modules() if hasattr(module, "lora_A")}
    assert found == {"h.0.attn.c_attn", "h.1.attn.c_attn"}
    with pytest.raises(RecipeError, match="backbone.train.lora.targets: no linear layer 'c_atn'; did you mean 'c_attn'"):
        lora_parts(checkpoints, targets=["c_atn"])


def test_a_part_without_linear_layers_cannot_be_adapted(checkpoints):
    encoders = {"image": {"model": str(checkpoints / "resnet"), "grid": 2, "train": {"lora": {"rank": 2}}}}
    with pytest.raises(RecipeError, match="encoders.image.train: lora needs linear layers"):
        composed(backbone=checkpoints / "gpt2", encoders=encoders, inputs={"image": "image", "question": "text"})
