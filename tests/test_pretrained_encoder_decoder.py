"""Composing pretrained encoder-decoders by path: what they write is what transformers' own model of the same folder writes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMultimodalLM, AutoModelForSeq2SeqLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent / "contracts"))
from tiny_models import VIT, WORDS, picture, rows

from chiasm.assemble import build
from chiasm.framing import edges
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.recipe import load_recipe
from chiasm.training.stages import apply_stage
from chiasm.types import ChiasmError, RecipeError

IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, **IDS}
HALVES = {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40}
SIZES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, **HALVES, "max_position_embeddings": 64, "init_std": 0.3}
BART = {**SIZES, "decoder_start_token_id": 3, "forced_eos_token_id": 3, **IDS}
CHECKPOINTS = {
    "t5": ("T5", T5),
    "t5 deeper decoder": ("T5", {**T5, "num_decoder_layers": 3}),
    "t5 1.1": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", T5),
    "umt5": ("UMT5", T5),
    "bart": ("Bart", BART),
    "bart untied": ("Bart", {**BART, "tie_word_embeddings": False}),
    "mbart": ("MBart", BART),
    "pegasus": ("Pegasus", {**BART, "scale_embedding": True}),
    "marian": ("Marian", {**BART, "scale_embedding": True}),
    "m2m_100": ("M2M100", {**BART, "scale_embedding": True}),
    "whisper": ("Whisper", {}),
}
TEXTS = ["is there a red cat ?", "a blue dog and a green house near the old bridge"]
every_checkpoint = pytest.mark.parametrize("name", [name for name in CHECKPOINTS if name != "whisper"])
both = pytest.mark.parametrize("name", ["t5", "bart"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """name -> a folder with a tiny checkpoint of it, saved by transformers; BART's tokenizer puts <s> and </s> around a text."""
    made: dict[str, Path] = {}

    def checkpoint(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("checkpoints") / name.replace(" ", "_")
            save(name, made[name])
        return made[name]

    return checkpoint


def save(name: str, where: Path) -> None:
    family, settings = CHECKPOINTS[name]
    tokenizer = learn_tokenizer(WORDS, kind="words", vocab_size=100, placeholders=[])
    if name == "bart":
        around = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
        tokenizer.backend_tokenizer.post_processor = around
    tokenizer.save_pretrained(where)
    words = {"vocab_size": len(tokenizer)} | ({"decoder_vocab_size": len(tokenizer)} if name == "marian" else {})
    config = getattr(transformers, f"{family}Config")(**settings, **words)
    torch.manual_seed(1)
    model = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():  # no parameter may be mistaken for a fresh one
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    model.save_pretrained(where)
    if name == "t5 1.1":  # a word head of its own, as google/t5-v1_1-* have it
        weights = load_file(where / "model.safetensors")
        save_file({**weights, "lm_head.weight": torch.randn_like(weights["shared.weight"])}, where / "model.safetensors", {"format": "pt"})


def composed(where, fusion="cross_attention", *, train="all", image=True, tasks=None, **backbone):
    """(model, processor) with a fresh vision transformer, unless there is only text."""
    recipe = {
        "inputs": {**({"image": {"modality": "image", "size": 16}} if image else {}), "question": "text"},
        "encoders": {"image": VIT} if image else {},
        "backbone": {"model": str(where), "train": train, **backbone},
        "fusion": fusion if image else "none",
        "tasks": tasks or {"answer": {"type": "generate", "prompt": "{question}", "target": "{answer}"}},
    }
    model, processor = build(load_recipe(recipe), rows(), WORDS)
    return model.eval(), processor


# ---- parity


@every_checkpoint
@torch.no_grad()
def test_text_alone_is_transformers_own_model(folder, name, tmp_path):
    """Logits, loss, and what is written greedily and with beams; before and after saving."""
    bare = AutoModelForSeq2SeqLM.from_pretrained(folder(name)).eval()
    model, processor = composed(folder(name), image=False)
    inputs = processor(text=TEXTS)
    ids = torch.randint(4, 20, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = bare(**inputs, decoder_input_ids=ids).logits
    model.save_pretrained(tmp_path)
    for found in (model, AutoModelForMultimodalLM.from_pretrained(tmp_path).eval()):
        torch.testing.assert_close(found(**inputs, decoder_input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
        if name not in ("mbart",):  # whose labels bring the token that decoding starts with
            torch.testing.assert_close(found(**inputs, labels=ids).loss, bare(**inputs, labels=ids).loss)
        for beams in (1, 3):
            settings = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
            # transformers' T5 with more layers in the decoder than in the encoder makes its cache too small
            theirs = bare.generate(**inputs, **settings, use_cache=name != "t5 deeper decoder")
            assert torch.equal(found.generate(**inputs, **settings), theirs)


@both
@pytest.mark.parametrize("fusion", ["gated_cross_attention", "early"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
@torch.no_grad()
def test_without_its_picture_a_composite_is_the_bare_model(folder, name, fusion, side):
    bare = AutoModelForSeq2SeqLM.from_pretrained(folder(name)).eval()
    model, processor = composed(folder(name), fusion, side=side)
    inputs = processor(text=TEXTS)
    ids = torch.randint(4, 20, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = bare(**inputs, decoder_input_ids=ids).logits
    torch.testing.assert_close(model(**inputs, decoder_input_ids=ids).logits[..., : expected.shape[-1]], expected, rtol=1e-5, atol=1e-5)
    if fusion == "gated_cross_attention":  # its gates are closed: with the picture too
        seeing = processor(text=TEXTS, images=[picture(0), picture(1)])
        torch.testing.assert_close(model(**seeing, decoder_input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
        settings = {"max_new_tokens": 6, "do_sample": False}
        assert torch.equal(model.generate(**seeing, **settings), bare.generate(**inputs, **settings))


@every_checkpoint
@pytest.mark.parametrize("fusion", ["early", "cross_attention"])
def test_every_weight_is_the_checkpoints(folder, name, fusion):
    model, processor = composed(folder(name), fusion)
    bare = AutoModelForSeq2SeqLM.from_pretrained(folder(name))
    theirs = {key.removeprefix("model."): value for key, value in bare.state_dict().items()}
    own = {**model.model.language_model.state_dict(), "lm_head.weight": model.lm_head.weight}
    if model.final_logits_bias is not None:
        own["final_logits_bias"] = model.final_logits_bias.T
        theirs["final_logits_bias"] = theirs["final_logits_bias"].T
    assert set(own) == set(theirs)
    added = fusion == "early"
    for key, weight in own.items():
        assert torch.equal(weight[: len(theirs[key])], theirs[key]), key
        words = "embed_tokens" in key or key in ("shared.weight", "lm_head.weight", "final_logits_bias")
        assert len(weight) - len(theirs[key]) == (added and words), key
    assert len(processor.tokenizer) == len(model.get_input_embeddings().weight)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (name not in ("t5 1.1", "bart untied"))


@both
def test_prompts_and_targets_are_framed_as_the_tokenizer_frames_them(folder, name):
    model, processor = composed(folder(name))
    tokenizer = AutoTokenizer.from_pretrained(folder(name))
    task, samples = model.tasks["answer"], rows(3)
    inputs, targets = task.collate(samples, processor)
    for row, sample in enumerate(samples):
        question, answer = tokenizer(sample.parts["question"])["input_ids"], tokenizer(text_target=sample.parts["answer"])["input_ids"]
        if name == "t5":  # this learned tokenizer puts nothing around a text, where T5's own puts the end token behind it
            question, answer = [*question, 3], [*answer, 3]
        assert inputs["input_ids"][row][inputs["attention_mask"][row]].tolist() == question
        written = inputs["decoder_input_ids"][row][inputs["decoder_attention_mask"][row]].tolist()
        assert written == [model.config.decoder_start_token_id, *answer]
        labels = targets["labels"][row]
        assert labels[labels != -100].tolist() == answer and labels[0] == -100
    texts = processor(text=[sample.parts["question"] for sample in samples])
    assert torch.equal(texts["input_ids"], inputs["input_ids"]) and torch.equal(texts["attention_mask"].bool(), inputs["attention_mask"])


def test_a_translators_target_is_encoded_by_the_rules_of_targets(folder):
    """As MarianTokenizer has them: another vocabulary's pieces for what is written."""
    model, processor = composed(folder("marian"))
    tokenizer = processor.tokenizer
    backend, usual = tokenizer.backend_tokenizer, tokenizer.backend_tokenizer.normalizer
    (yes,), (no,) = processor.encode(["yes", "no"], user=True)
    tokenizer._switch_to_target_mode = lambda: setattr(backend, "normalizer", Replace("yes", "no"))
    tokenizer._switch_to_input_mode = lambda: setattr(backend, "normalizer", usual)
    (sample,) = rows(1)
    assert sample.parts["answer"] == "yes"
    sample.parts["question"] = "yes"
    inputs, targets = model.tasks["answer"].collate([sample], processor)
    assert yes != no and inputs["input_ids"].tolist() == [[yes, 3]] and targets["labels"].tolist() == [[-100, no, 3]]


def test_a_tokenizer_that_ends_nothing(folder):
    """A target must end all the same, else nothing would teach the model to."""
    tokenizer = AutoTokenizer.from_pretrained(folder("t5"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    assert edges(tokenizer) == edges(tokenizer, "text_target") == ([2], [3])


def test_what_a_task_should_say_is_not_taken_over(folder, tmp_path):
    """Special tokens come with the checkpoint; numbers of beams and lengths are the recipe's `generation`."""
    where = Path(shutil.copytree(folder("bart"), tmp_path / "bart"))
    settings = transformers.GenerationConfig.from_pretrained(where)
    settings.update(num_beams=4, min_length=20, no_repeat_ngram_size=3, forced_bos_token_id=2)
    settings.save_pretrained(where)
    taken = composed(where)[0].generation_config
    assert taken.forced_bos_token_id == 2 and taken.forced_eos_token_id == 3 and taken.decoder_start_token_id == 3
    assert taken.num_beams in (None, 1) and taken.min_length in (None, 0) and taken.no_repeat_ngram_size in (None, 0)


# ---- what is refused


@pytest.fixture
def copy_of(folder, tmp_path):
    return lambda name: Path(shutil.copytree(folder(name), tmp_path / name))


def changed(where, change):
    weights = load_file(where / "model.safetensors")
    change(weights)
    save_file(weights, where / "model.safetensors", metadata={"format": "pt"})


def refused(match, where, **parts):
    with pytest.raises(ChiasmError, match=match) as found:
        composed(where, **parts)
    assert "\n" not in str(found.value)


@both
def test_a_weight_that_is_missing_misshaped_or_not_finite_is_refused_by_name(copy_of, name):
    where = copy_of(name)
    key = next(k for k in sorted(load_file(where / "model.safetensors")) if "decoder" in k and k.endswith(("wo.weight", "fc1.weight")))
    kept = load_file(where / "model.safetensors")[key]
    inner = key.removeprefix("model.")
    changed(where, lambda weights: weights.update({key: kept.clone().view(-1).index_fill(0, torch.tensor([3]), torch.nan).view_as(kept)}))
    refused(f"weight '{inner}' has NaN or Inf", where)
    changed(where, lambda weights: weights.update({key: kept[:-1].clone()}))
    refused(f"weight '.*{inner}' is \\(\\d+, \\d+\\) in the checkpoint and \\(\\d+, \\d+\\) in the model", where)
    changed(where, lambda weights: weights.update({key + "s": weights.pop(key)}))
    refused(f"1 weight\\(s\\) are not in the checkpoint, first '.*{inner}'; did you mean '.*{inner}s'", where)


def test_a_checkpoint_that_does_not_say_how_decoding_starts(copy_of):
    where = copy_of("t5")
    for file in ("config.json", "generation_config.json"):
        text = (where / file).read_text()
        (where / file).write_text("\n".join(line for line in text.splitlines() if "decoder_start_token_id" not in line))
    refused("its config.json has no decoder_start_token_id; add it", where)


def test_an_architecture_whose_words_are_not_those_of_its_output(folder, monkeypatch):
    """The bare model and the composite are compared before anything is done with them."""
    from chiasm.backbones.encoder_decoder import EncoderDecoder

    monkeypatch.setattr(EncoderDecoder, "output_scale", 1.0)
    refused("t5 turns its output into words in a way of its own", folder("t5"))


def test_keys_of_another_kind_are_refused(folder, tmp_path):
    refused("backbone.latents: t5 has no such key", folder("t5"), latents=3)
    refused("backbone.side: 'encodr' is not allowed; did you mean 'encoder'", folder("t5"), side="encodr")
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30))
    gpt2.save_pretrained(tmp_path / "gpt2")
    AutoTokenizer.from_pretrained(folder("t5")).save_pretrained(tmp_path / "gpt2")
    refused("backbone.side: gpt2 has no such key", tmp_path / "gpt2", side="encoder")
    refused("backbone.kind: t5 has an encoder and a decoder; leave `kind` out", folder("t5"), kind="causal")


# ---- training a part of it


@both
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_adapters_start_as_no_change_and_only_they_train(folder, name, side):
    plain, processor = composed(folder(name), "early")
    adapted, _ = composed(folder(name), "early", train={"lora": {"rank": 4}}, side=side)
    weights = adapted.state_dict()
    plain.load_state_dict({key.replace(".base_layer.", "."): value for key, value in weights.items() if "lora_" not in key})
    inputs = processor(text=TEXTS, images=[picture(0), picture(1)])
    ids = torch.tensor([[0, 4, 5]] * 2)
    with torch.no_grad():
        bare = plain(**inputs, decoder_input_ids=ids).logits
        torch.testing.assert_close(adapted(**inputs, decoder_input_ids=ids).logits, bare, rtol=1e-5, atol=1e-5)
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.1)
        assert not torch.allclose(adapted(**inputs, decoder_input_ids=ids).logits, bare, atol=1e-2)
    recipe = staged(folder(name), {"lora": {"rank": 4}})
    apply_stage(adapted, recipe, recipe.stages[0])
    adapted(**inputs, labels=ids).loss.backward()
    for key, parameter in adapted.named_parameters():
        inside = key.startswith("model.language_model.")
        assert parameter.requires_grad == ("lora_" in key) or not inside, key
        if "lora_" in key:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


@both
@torch.no_grad()
def test_adapters_are_saved_and_loaded(folder, name, tmp_path):
    model, processor = composed(folder(name), "cross_attention", train={"lora": {"rank": 2}})
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path).eval()
    inputs, ids = processor(text=TEXTS, images=[picture(0), picture(1)]), torch.tensor([[0, 4, 5]] * 2)
    assert torch.equal(again(**inputs, decoder_input_ids=ids).logits, model(**inputs, decoder_input_ids=ids).logits)


def staged(where, train):
    return load_recipe(
        {
            "inputs": {"image": "image", "question": "text"},
            "encoders": {"image": VIT},
            "backbone": {"model": str(where), "train": train},
            "tasks": {"answer": {"type": "generate", "target": "{answer}"}},
        }
    )


@both
def test_the_last_layers_are_those_that_write(folder, name):
    model, _ = composed(folder(name), "cross_attention")
    decoder = model.model.backbone.decoder
    last = (decoder.block if name == "t5" else decoder.layers)[-1]
    for train, expected in (("none", set()), (1, set(last.parameters()))):
        recipe = staged(folder(name), train)
        table = {row.part: row for row in apply_stage(model, recipe, recipe.stages[0])}
        assert {p for p in model.model.language_model.parameters() if p.requires_grad} == expected
        assert (table["backbone"].trainable > 0) == bool(expected) and table["fusion"].trainable > 0


def test_an_error_of_a_folder_is_told(tmp_path):
    with pytest.raises(RecipeError, match="backbone.model .*nowhere"):
        composed(tmp_path / "nowhere")
