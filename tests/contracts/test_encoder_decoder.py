"""What every fusion promises on an encoder-decoder beside test_fusion.py: no leak while it writes, and no input that `generate` loses."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import BACKBONES, SEQ2SEQ, STRATEGIES, T5, assembled, cells, marked, picture, prepared, routed, sound, tiny

from chiasm.encoders.base import network_of
from chiasm.types import RecipeError

seq2seq = [cell for cell in cells() if cell[1] in SEQ2SEQ]
every_cell = pytest.mark.parametrize(("fusion", "backbone"), marked(seq2seq, slow=("bart", "bart encoder")))
every_side = pytest.mark.parametrize("backbone", SEQ2SEQ)
SETTINGS = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}


def asked(processor, which=(0, 2, 1), **changes):
    """Three rows of different length; the first has no picture."""
    return prepared(processor, list(which), **{"image": [None, picture(1), picture(2)], **changes})


def begun(model, answer):
    """Decoder ids [R, 1 + T]: what decoding starts with, then `answer` [R, T]."""
    return torch.cat([torch.full_like(answer[:, :1], model.config.decoder_start_token_id), answer], 1)


def an_answer(processor, rows=3):
    return torch.tensor([processor.encode([text], user=True)[0][:3] for text in ("is there a", "what is this", "a blue dog")[:rows]])


@every_cell
@torch.no_grad()
def test_fu8_the_future_does_not_reach_the_past(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs, ids = asked(processor), begun(model, an_answer(processor))
    changed = ids.clone()
    changed[:, -1] = processor.end_id
    before, after = (model(**inputs, decoder_input_ids=written).logits for written in (ids, changed))
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


@every_cell
@torch.no_grad()
def test_fu15_teacher_forced_equals_token_by_token(fusion, backbone):
    """The encoder is run once, by `get_encoder()`; the decoder then writes with a cache."""
    model, processor = tiny(fusion, backbone)
    inputs, ids = asked(processor), begun(model, an_answer(processor))
    whole = model(**inputs, decoder_input_ids=ids).logits
    heard, streams = model.get_encoder()(**inputs), routed(model, inputs)
    steps, past = [], None
    for t in range(ids.shape[1]):
        given = {"decoder_input_ids": ids[:, t : t + 1], "encoder_outputs": heard, "streams": streams}
        output = model(**given, past_key_values=past, use_cache=True)
        past = output.past_key_values
        steps.append(output.logits[:, -1])
    torch.testing.assert_close(whole, torch.stack(steps, 1), rtol=1e-4, atol=1e-4)


@every_cell
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_fu15_generate_equals_teacher_forcing(fusion, backbone, beams):
    """With a cache, without one, and read again as a whole: the same tokens and the same scores; the encoder runs once."""
    model, processor = tiny(fusion, backbone)
    inputs, runs = asked(processor), []
    counting = model.model.backbone.encoder.register_forward_hook(lambda *_: runs.append(1))
    cached, plain = (model.generate(**inputs, **SETTINGS, num_beams=beams, length_penalty=0.0, use_cache=c) for c in (True, False))
    counting.remove()
    assert len(runs) == 2
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.scores), torch.stack(plain.scores), rtol=1e-4, atol=1e-4)
    written = cached.sequences
    logits = model(**inputs, decoder_input_ids=written[:, :-1]).logits
    if beams == 1:
        logits[:, :, [*model.config.placeholder_ids.values(), processor.end_id]] = -torch.inf
        if (forced := model.generation_config.forced_eos_token_id) is not None:
            logits[:, -1] = torch.where(torch.arange(logits.shape[-1]) == forced, 0.0, -torch.inf)
        assert torch.equal(logits.argmax(-1), written[:, 1:])
    elif model.generation_config.forced_eos_token_id is None:
        chosen = logits.log_softmax(-1).gather(-1, written[:, 1:].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(chosen.sum(1), cached.sequences_scores, rtol=1e-4, atol=1e-3)


@every_cell
@pytest.mark.parametrize(("name", "beams"), [("image", 1), ("image", 2), ("audio", 1), ("question", 1)])
@torch.no_grad()
def test_a_declared_input_changes_what_generate_scores(fusion, backbone, name, beams):
    """`generate` passes by `forward`; an encoder that took token ids alone would lose the picture there without a word."""
    model, processor = tiny(fusion, backbone)
    changes = {"image": {"image": [None, picture(1), picture(3)]}, "audio": {"audio": [sound(0), sound(2), sound(5)]}, "question": {}}
    here, there = asked(processor), asked(processor, which=(0, 2, 0 if name == "question" else 1), **changes[name])
    settings = {**SETTINGS, "max_new_tokens": 2, "min_new_tokens": 2, "num_beams": beams}
    first, second = (model.generate(**inputs, **settings) for inputs in (here, there))
    before, after = (found.scores[0].unflatten(0, (3, beams)) for found in (first, second))
    assert torch.equal(before[:2], after[:2])
    seen = before[2].isfinite()  # the other rows are bit-equal: no noise
    assert torch.allclose(before[2][seen], after[2][seen], atol=1e-5) != (model.fusion.reads_streams or name == "question")


@pytest.mark.parametrize(("fusion", "backbone"), [("co_attention", "t5 encoder"), ("early", "t5"), ("cross_attention", "bart")])
@torch.no_grad()
def test_an_encoders_output_may_be_given_to_generate(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs = asked(processor)
    media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    heard = model.get_encoder()(**inputs)
    for beams in (1, 2):
        whole = model.generate(**inputs, max_new_tokens=4, num_beams=beams)
        assert torch.equal(whole, model.generate(encoder_outputs=copy.deepcopy(heard), **media, max_new_tokens=4, num_beams=beams))


@every_side
@torch.no_grad()
def test_a_placeholder_without_its_picture_stays_hidden(backbone):
    model, processor = copy.deepcopy(tiny("early", backbone))
    with_place = processor(text=["<image>what is this sound ?", "<image>is there a red cat ?"], images=[None, picture(0)])
    hidden = with_place["input_ids"][0] == processor.placeholder_id("image")
    assert hidden.sum() == processor.placeholder_counts["image"]
    heard = model.get_encoder()(**with_place)
    assert not heard.attention_mask[0][hidden].any() and heard.attention_mask[0, ~hidden].equal(with_place["attention_mask"][0, ~hidden])
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    before = model.generate(**with_place, **settings)
    model.get_input_embeddings().weight[processor.placeholder_id("image")] += 100.0  # what stands there is never read
    assert torch.equal(before, model.generate(**with_place, **settings))


@pytest.mark.parametrize("backbone", ["t5", "bart"])
def test_own_weights_add_nothing_to_the_architecture(backbone):
    """Streams stand behind the encoder's output, and the decoder's own cross-attention reads them."""
    model, processor = tiny("own weights", backbone)
    network = model.model.language_model
    assert set(network.state_dict()) == set(network_of(network.config).state_dict())
    assert {name.split(".")[0] for name, _ in model.fusion.named_parameters()} <= {"placing"}
    inputs, model = asked(processor), copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        heard = model.model(**inputs, output_attentions=True)
    prompt = inputs["input_ids"].shape[1]
    weights = heard.cross_attentions[0]  # [R, H, T, S + L]
    assert weights.shape[-1] == prompt + 5 + 3
    assert (weights[0, ..., prompt : prompt + 5] == 0).all() and (weights[1, ..., prompt : prompt + 5] > 0).all()


@every_side
@torch.no_grad()
def test_labels_are_the_decoders_ids_shifted(backbone):
    """As T5ForConditionalGeneration and BartForConditionalGeneration have it; the loss is the mean over labels."""
    model, processor = tiny("cross_attention", backbone)
    inputs, labels = asked(processor), an_answer(processor)
    labels[0, -1] = -100
    output = model(**inputs, labels=labels)
    ids = begun(model, labels.clamp_min(processor.pad_id))[:, :-1]
    logits = model(**inputs, decoder_input_ids=ids).logits
    torch.testing.assert_close(output.logits, logits)
    chosen = labels != -100
    expected = torch.nn.functional.cross_entropy(logits[chosen], labels[chosen])
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(model(**inputs, labels=labels, num_items_in_batch=torch.tensor(4.0)).loss, expected * chosen.sum() / 4)


@every_side
@torch.no_grad()
def test_generates_attentions_and_states_have_their_names(backbone):
    model, processor = tiny("cross_attention", backbone)
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    found = model.generate(**asked(processor), **{**SETTINGS, "output_attentions": True, "output_hidden_states": True})
    assert len(found.decoder_attentions) == len(found.cross_attentions) == len(found.decoder_hidden_states) == 5
    sizes = model.model.language_model.config.get_text_config(decoder=True)
    layers = getattr(sizes, "num_decoder_layers", None) or sizes.num_hidden_layers
    assert len(found.decoder_attentions[0]) == len(found.cross_attentions[0]) == layers
    assert found.encoder_attentions is not None and found.encoder_hidden_states is not None


@pytest.mark.parametrize(
    ("fusion", "backbone"),
    [("co_attention", side) for side in SEQ2SEQ if side != "bart encoder"]
    + [("own weights", "t5"), ("own weights", "bart"), ("early", "t5")],
)
def test_checkpointing_does_not_change_gradients(fusion, backbone):
    """Layer hooks must not run again, without what they need, when a checkpointed layer does."""
    plain, processor = copy.deepcopy(tiny(fusion, backbone))
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing_enable()
    inputs, labels = asked(processor), an_answer(processor)
    for model in (plain.train(), saving.train()):
        model(**inputs, labels=labels).loss.backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


# ---- cells that make no sense


@pytest.mark.parametrize("backbone", ["t5 encoder", "bart encoder"])
def test_an_encoder_has_no_cross_attention_to_lend(backbone):
    with pytest.raises(RecipeError, match="no cross-attention of its own \\(an encoder has none\\)"):
        assembled({"type": "cross_attention", "weights": "backbone"}, backbone)


def test_a_decoder_does_not_know_the_whole_texts_length():
    fusion = {"type": "alpha_gated", "form": "printed", "align": "interpolate"}
    with pytest.raises(RecipeError, match="fusion.align: interpolate needs the whole text's length"):
        assembled(fusion, "t5")
    model, processor = assembled(fusion, "t5 encoder")
    assert torch.isfinite(model(**asked(processor)).logits).all()


@pytest.mark.parametrize(("backbone", "met"), [("bart encoder", 2), ("bart", 1)])
def test_only_the_named_sides_layers_are_met(backbone, met, monkeypatch):
    """A BART with two layers in its encoder and one in its decoder."""
    monkeypatch.setitem(BACKBONES, backbone, {**BACKBONES[backbone], "decoder_layers": 1})
    if met == 1:
        with pytest.raises(RecipeError, match="CoAttention needs to meet 2 layers or more, and meets 1 of the backbone's 1"):
            assembled({"type": "co_attention"}, backbone)
    model, _ = assembled({"type": "cross_attention"}, backbone)
    side = model.model.backbone.encoder if met == 2 else model.model.backbone.decoder
    assert len(model.model.backbone.layers) == len(side.layers) == len(model.fusion.reads) == met
    assert model.model.backbone.layers is side.layers


# ---- what transformers sees


@every_side
@torch.no_grad()
def test_saved_and_loaded_by_the_auto_classes(backbone, tmp_path):
    model, processor = tiny("hybrid", backbone) if backbone in ("bart", "bart encoder") else tiny("cross_attention", backbone)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = AutoModelForMultimodalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert again.config.is_encoder_decoder and AutoConfig.from_pretrained(tmp_path).is_encoder_decoder
    assert again.config.decoder_start_token_id == processor.target_edges[0][0] == reader.target_edges[0][0]
    assert again.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()
    before, after = asked(processor), asked(reader)
    assert all(torch.equal(before[key], after[key]) for key in before)
    ids = begun(model, an_answer(processor))
    torch.testing.assert_close(model(**before, decoder_input_ids=ids).logits, again(**after, decoder_input_ids=ids).logits)
    assert torch.equal(model.generate(**before, max_new_tokens=4), again.generate(**after, max_new_tokens=4))
    assert again.lm_head.weight is again.get_input_embeddings().weight
    network = again.model.language_model
    assert network.encoder.embed_tokens.weight is network.decoder.embed_tokens.weight is network.shared.weight


@pytest.mark.parametrize("call", ["forward", "generate", "encoder"])
def test_an_unknown_argument_names_the_nearest(call):
    model, processor = tiny("cross_attention", "t5")
    inputs = asked(processor)
    run = {"forward": model, "generate": model.generate, "encoder": model.get_encoder()}[call]
    with pytest.raises(TypeError, match="unknown argument 'pixel_value'; did you mean 'pixel_values'"):
        run(**inputs, pixel_value=inputs["pixel_values"])


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_positions_that_nothing_would_read_are_refused(call):
    model, processor = tiny("cross_attention", "t5")
    inputs, more = asked(processor), {} if call == "forward" else {"max_new_tokens": 2}
    with pytest.raises(TypeError, match="position_ids: an encoder-decoder counts its positions itself"):
        (model if call == "forward" else model.generate)(**inputs, **more, position_ids=inputs["input_ids"])


@pytest.mark.parametrize("argument", ["decoder_input_ids", "decoder_attention_mask", "encoder_outputs"])
def test_a_causal_model_takes_no_decoder_arguments(argument):
    model, processor = tiny("cross_attention", "gpt2")
    inputs = prepared(processor, [0])
    for run in (model, model.generate):
        with pytest.raises(TypeError, match=f"unknown argument '{argument}'"):
            run(**inputs, **{argument: inputs["input_ids"]})


def test_fresh_networks_begin_to_write_as_their_architecture_does():
    """T5 with padding, BART with the end token; a recipe may say otherwise."""
    for backbone, token in (("t5", "pad_id"), ("bart", "end_id")):
        model, processor = tiny("cross_attention", backbone)
        assert model.config.decoder_start_token_id == getattr(processor, token) == model.generation_config.decoder_start_token_id
    model, _ = tiny("cross_attention", "bart")
    assert model.generation_config.forced_eos_token_id == model.config.eos_token_id
    assert transformers.BartConfig().forced_eos_token_id != model.config.eos_token_id
    BACKBONES["t5 from 2"] = {**T5, "decoder_start_token_id": 2}
    try:
        assert assembled({"type": "late"}, "t5 from 2")[0].config.decoder_start_token_id == 2
    finally:
        del BACKBONES["t5 from 2"]


def test_every_strategy_is_tried_on_both_sides():
    for side in ("t5", "t5 encoder"):
        assert {fusion for fusion, backbone in cells() if backbone == side} >= set(STRATEGIES)
