"""Strategies against the transformers models that are the same mathematics, on copied weights of tiny random models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2LMHeadModel,
    LxmertConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VisualBertConfig,
    VisualBertModel,
)
from transformers.models.lxmert.modeling_lxmert import LxmertXLayer

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
sys.path.insert(0, str(Path(__file__).parent))
from test_attention import copy_gpt2
from tiny_models import BACKBONES, CAUSAL, NEITHER_DROPS, SMALL, VIT, assembled, picture, prepared, routed

from chiasm.types import RecipeError, Tokens

DISTILBERT = {"n_heads": 4, "n_layers": 2, "dim": 32, "hidden_dim": 48, "dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.3}
close = {"rtol": 1e-5, "atol": 1e-5}


def pair(fusion: dict[str, Any], kind: str, **changes: Any) -> tuple[Any, Any]:
    """(model, processor) of a picture and a question."""
    inputs = {"image": {"modality": "image", "size": 16}, "question": "text"}
    return assembled({"positions": "none", **fusion}, kind, inputs=inputs, encoders={"image": {**VIT, **NEITHER_DROPS}}, **changes)


def rows(processor: Any, which: list[int], **more: Any) -> Any:
    return prepared(processor, which, audio=[None] * len(which), **more)


def spread(module: nn.Module) -> nn.Module:
    """The module with large random weights in place of its small ones, so that a wrong one shows."""
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name.lower() and name.endswith("weight")), std=0.2)
    return module.eval()


def visible(values: Tensor, mask: Tensor) -> Tensor:
    return values[mask.bool()]


def counted(mask: Tensor) -> Tensor:
    """Positions over visible tokens, as ours and transformers' `generate` count them."""
    return (mask.cumsum(1) - 1).clamp_min(0)


# ---- gated_cross_attention starts as the bare language model


def bare(model: Any) -> Any:
    """transformers' own language model with the composite's weights."""
    alone = AutoModelForCausalLM.from_config(model.config.get_text_config()).eval()
    alone.base_model.load_state_dict(model.model.language_model.state_dict())
    alone.lm_head.load_state_dict(model.lm_head.state_dict())
    return alone


@pytest.mark.parametrize("backbone", CAUSAL)
@torch.no_grad()
def test_closed_gates_are_the_bare_language_model_to_the_bit(backbone):
    model, processor = pair({"type": "gated_cross_attention"}, backbone)
    inputs = rows(processor, [0, 2, 1], padding_side="left")
    text = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    ours, theirs = model(**inputs).logits, bare(model)(**text, position_ids=counted(text["attention_mask"])).logits
    assert torch.equal(visible(ours, text["attention_mask"]), visible(theirs, text["attention_mask"]))
    with model.fusion.gates_open():
        assert not torch.allclose(
            visible(model(**inputs).logits, text["attention_mask"]), visible(theirs, text["attention_mask"]), atol=0.1
        )


@pytest.mark.parametrize("backbone", CAUSAL)
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_closed_gates_write_what_the_bare_language_model_writes(backbone, beams):
    model, processor = pair({"type": "gated_cross_attention"}, backbone)
    inputs = rows(processor, [0, 2, 1], padding_side="left")
    settings = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    ours = model.generate(**inputs, **settings)
    theirs = bare(model).generate(**{k: inputs[k] for k in ("input_ids", "attention_mask")}, **settings)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.scores, theirs.scores, strict=True))


# ---- cross_attention


@torch.no_grad()
def test_the_backbones_own_cross_attention_is_gpt2s():
    model, processor = pair({"type": "cross_attention", "weights": "backbone"}, "gpt2")
    theirs = GPT2LMHeadModel(model.config.get_text_config()).eval()
    theirs.transformer.load_state_dict(spread(model.model.language_model).state_dict())
    inputs = rows(processor, [0, 2, 1])
    streams = routed(model, inputs)
    streams["image"].mask[1, 3:] = False  # not every patch is seen
    image, text = streams["image"].by_row(), {k: inputs[k] for k in ("input_ids", "attention_mask")}
    memory = {"encoder_hidden_states": image.values, "encoder_attention_mask": image.mask.long()}
    wanted = theirs(**text, **memory, position_ids=counted(text["attention_mask"])).logits
    torch.testing.assert_close(*(visible(v, text["attention_mask"]) for v in (model(**text, streams=streams).logits, wanted)), **close)


@torch.no_grad()
def test_the_backbones_own_cross_attention_is_vision_encoder_decoder():
    model, processor = pair({"type": "cross_attention", "weights": "backbone"}, "gpt2")
    encoder, connector = model.model.encoders["image"].network, model.model.connectors["image"]
    for part in (encoder, connector, model.model.language_model):
        spread(part)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, model.config.get_text_config())
    theirs = VisionEncoderDecoderModel(config).eval()
    missing, unexpected = theirs.encoder.load_state_dict(encoder.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("pooler") for name in missing)
    theirs.decoder.transformer.load_state_dict(model.model.language_model.state_dict())
    theirs.enc_to_dec_proj.load_state_dict(connector.layer.state_dict())
    inputs = rows(processor, [0, 2, 1])
    text = {"decoder_input_ids": inputs["input_ids"], "decoder_attention_mask": inputs["attention_mask"]}
    wanted = theirs(pixel_values=inputs["pixel_values"], **text, decoder_position_ids=counted(inputs["attention_mask"])).logits
    torch.testing.assert_close(*(visible(v, inputs["attention_mask"]) for v in (model(**inputs).logits, wanted)), **close)
    alone = rows(processor, [2])
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
    written = theirs.generate(pixel_values=alone["pixel_values"], decoder_input_ids=alone["input_ids"], **settings)
    assert torch.equal(model.generate(**alone, **settings), written)


@torch.no_grad()
def test_own_weights_compute_gpt2s_cross_attention_where_they_stand_in_its_place():
    """Ours reads ahead of a layer, GPT-2's between self-attention and MLP: the same place once self-attention adds nothing. Ours also
    normalises what it reads, which is done to GPT-2's by hand."""
    theirs, processor = pair({"type": "cross_attention", "weights": "backbone"}, "gpt2")
    ours, _ = pair({"type": "cross_attention", "start": "random"}, "gpt2")
    spread(theirs.model.language_model)
    for layer in theirs.model.backbone.layers:
        nn.init.zeros_(layer.attn.c_proj.weight)
        nn.init.zeros_(layer.attn.c_proj.bias)
    missing, _ = ours.model.language_model.load_state_dict(theirs.model.language_model.state_dict(), strict=False)
    assert not missing
    for layer, readers in zip(theirs.model.backbone.layers, ours.fusion.reads, strict=True):
        readers["image"].norm.load_state_dict(layer.ln_cross_attn.state_dict())
        copy_gpt2(layer.crossattention, readers["image"].attention)
        readers["image"].norm_sources["image"].reset_parameters()
    inputs = rows(processor, [0, 2, 1])
    image = routed(ours, inputs)["image"].by_row()
    normed = Tokens(nn.functional.layer_norm(image.values, image.values.shape[-1:]), image.mask)
    text = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    found, wanted = ours(**text, streams={"image": image}).logits, theirs(**text, streams={"image": normed}).logits
    torch.testing.assert_close(*(visible(v, text["attention_mask"]) for v in (found, wanted)), **close)


# ---- early fusion on a BERT is VisualBERT


@torch.no_grad()
def test_early_on_a_bert_is_visual_bert():
    """Its embeddings of visual tokens (the first visual position, token type 1) go into the fusion's modality embedding, less BERT's own
    first position and token type 0, which a BERT adds to every token."""
    model, processor = pair({"type": "early", "counted": False, "positions": "auto"}, "bert")
    text_config = model.config.get_text_config()
    shape = {k: getattr(text_config, k) for k in ("vocab_size", *SMALL, *NEITHER_DROPS, "max_position_embeddings", "pad_token_id")}
    theirs = spread(VisualBertModel(VisualBertConfig(**shape, visual_embedding_dim=16), add_pooling_layer=False))
    visual = {k: v for k, v in theirs.state_dict().items() if "visual" in k}
    model.model.language_model.load_state_dict({k: v for k, v in theirs.state_dict().items() if k not in visual})
    model.model.connectors["image"].layer.load_state_dict(theirs.embeddings.visual_projection.state_dict())
    own = theirs.embeddings
    first, kind = (getattr(own, f"visual_{name}_embeddings").weight for name in ("position", "token_type"))
    model.fusion.placing["image"].position.copy_(
        first[0] + kind[1] - own.position_embeddings.weight[0] - own.token_type_embeddings.weight[0]
    )

    inputs = rows(processor, [0, 2, 1])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    hidden = model.model(**inputs).last_hidden_state
    patches = model.model.encode_features("image", {"pixel_values": inputs["pixel_values"]}).values  # [R, 5, 16]
    place = ids == processor.placeholder_id("image")
    for row in range(3):
        assert place[row][mask[row].bool()].tolist() == sorted(place[row][mask[row].bool()].tolist())  # words first, then the picture
        words = ids[row][mask[row].bool() & ~place[row]].unsqueeze(0)
        wanted = theirs(input_ids=words, visual_embeds=patches[row : row + 1]).last_hidden_state[0]
        torch.testing.assert_close(hidden[row][mask[row].bool() & ~place[row]], wanted[: words.shape[1]], **close)
        torch.testing.assert_close(hidden[row][place[row]], wanted[words.shape[1] :], **close)


@pytest.mark.parametrize("arch", ["bert", "roberta", "electra", "distilbert"])
@torch.no_grad()
def test_uncounted_stream_tokens_leave_the_words_their_places(arch):
    """Wherever the picture stands in a text, and whether its tokens are permuted, what is computed is the same."""
    sizes = DISTILBERT if arch == "distilbert" else {**SMALL, **NEITHER_DROPS}
    backbone = {"kind": "bidirectional", "arch": arch, **sizes, "max_position_embeddings": 64, "tokenizer": "words"}
    model, processor = pair({"type": "early", "counted": False}, "bert", backbone=backbone)
    found = []
    for text in ("<image> is there a red cat ?", "is there a <image> red cat ?", "is there a red cat ?"):
        given = processor(text=[text], images=[picture(0)])
        place = given["input_ids"] == processor.placeholder_id("image")
        found.append(model.model(**given).last_hidden_state[~place])
    streams = routed(model, given)
    order = torch.randperm(streams["image"].mask.shape[1])
    permuted = Tokens(streams["image"].by_row().values[:, order], streams["image"].by_row().mask[:, order])
    text = {k: given[k] for k in ("input_ids", "attention_mask")}
    found.append(model.model(**text, streams={"image": permuted}).last_hidden_state[~place])
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, **close)
    usual, _ = pair({"type": "early"}, "bert", backbone=backbone)
    usual.load_state_dict(model.state_dict())
    assert not torch.allclose(usual.model(**given).last_hidden_state[~place], found[-1], atol=1e-3)


@pytest.mark.parametrize(("kind", "arch"), [("gpt2", "gpt2"), ("qwen3", "qwen3"), ("bert", "roformer")])
def test_a_backbone_that_counts_every_token_itself_says_so(kind, arch):
    with pytest.raises(RecipeError, match="fusion.counted: this backbone counts every token itself"):
        pair({"type": "early", "counted": False}, kind, backbone={**BACKBONES[kind], "arch": arch})


# ---- co_attention is LXMERT


@torch.no_grad()
def test_co_attention_is_lxmerts_cross_modality_layer():
    """Layer by layer: LXMERT's language side is our cross-attention ahead of a BERT layer; its norm after cross-attention is one for both
    directions, ours two with equal weights."""
    width, heads = SMALL["hidden_size"], SMALL["num_attention_heads"]
    backbone = {**BACKBONES["bert"], "intermediate_size": 2 * width}
    fusion = {"type": "co_attention", "norm": "post", "share": True, "feed_forward": 2}
    model, processor = pair(fusion, "bert", backbone=backbone)
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 2 * width, **NEITHER_DROPS}
    theirs = [spread(LxmertXLayer(LxmertConfig(**sizes))) for _ in range(2)]
    for layer, block, text in zip(theirs, model.fusion.blocks, model.model.backbone.layers, strict=True):
        copy_lxmert(layer, block, text)
    inputs = rows(processor, [0, 2, 1])
    streams = routed(model, inputs)
    streams["image"].mask[1, 3:] = False
    found: dict[str, Tensor] = {}
    after = model.fusion.after
    model.fusion.after = lambda text, streams, step: (found.update({n: t.values for n, t in streams.items()}), after(text, streams, step))[
        1
    ]
    text = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    hidden = model.model(**text, streams=streams).last_hidden_state

    image = streams["image"].by_row()
    language, vision = model.model.language_model.embeddings(text["input_ids"]), image.values
    lowest = torch.finfo(torch.float32).min
    hides = [((~mask.bool()) * lowest)[:, None, None] for mask in (text["attention_mask"], image.mask)]
    for number, layer in enumerate(theirs):
        language, seen = layer(language, hides[0], vision, hides[1])
        vision = vision if number else seen  # the second layer of ours only reads
    torch.testing.assert_close(*(visible(v, text["attention_mask"]) for v in (hidden, language)), **close)
    torch.testing.assert_close(*(visible(v, image.mask) for v in (found["image"], vision)), **close)


def copy_lxmert(theirs: Any, block: Any, text: Any) -> None:
    """LXMERT's cross-modality layer into one block of co-attention and the BERT layer behind it."""
    cross, own = theirs.visual_attention, theirs.visn_self_att
    copy_attention(cross.att, cross.output.dense, block["shared"])
    block["text"].norm.load_state_dict(cross.output.LayerNorm.state_dict())
    if "image/self" in block:
        block["image/others"].norm.load_state_dict(cross.output.LayerNorm.state_dict())
        reader = block["image/self"]
        copy_attention(own.self, own.output.dense, reader.attention)
        reader.norm.load_state_dict(own.output.LayerNorm.state_dict())
        reader.feed_forward.layers[0].load_state_dict(theirs.visn_inter.dense.state_dict())
        reader.feed_forward.layers[2].load_state_dict(theirs.visn_output.dense.state_dict())
        reader.feed_forward.norm.load_state_dict(theirs.visn_output.LayerNorm.state_dict())
    for name in ("query", "key", "value"):
        getattr(text.attention.self, name).load_state_dict(getattr(theirs.lang_self_att.self, name).state_dict())
    text.attention.output.load_state_dict(theirs.lang_self_att.output.state_dict())
    text.intermediate.load_state_dict(theirs.lang_inter.state_dict())
    text.output.load_state_dict(theirs.lang_output.state_dict())


def copy_attention(theirs: Any, output: nn.Linear, ours: Any) -> None:
    """LXMERT's attention into ours; its key bias cancels in the softmax."""
    for name in ("query", "value"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    ours.key.weight.copy_(theirs.key.weight)
    ours.output.load_state_dict(output.state_dict())
