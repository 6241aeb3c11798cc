"""What every encoder promises, on tiny fresh networks of several architectures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import LOG_MEL, NEITHER_DROPS, VIT

from chiasm.components import find, names
from chiasm.types import RecipeError, Sound

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, **NEITHER_DROPS}
RESNET = {k: v for k, v in LOG_MEL.items() if k not in ("mels", "tokens")}
WAV2VEC2 = {
    "arch": "wav2vec2",
    **TINY,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
    "feat_proj_dropout": 0.0,
    "activation_dropout": 0.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
WHISPER = {
    "arch": "whisper",
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": 80,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "max_source_positions": 50,
    "dropout": 0.0,
    "extractor": {"chunk_length": 1},
}
T5 = {"arch": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
BART = {"arch": "bart", "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_layers": 1}
GPT2 = {"arch": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
VIDEOMAE = {"arch": "videomae", **TINY, "patch_size": 8}
SENTENCES = ["a red cat and [PAD] a blue dog <pad> !", "one two three", "cat"]
# encoder -> what it is tried as: a name -> (options of the encoder and its network, options of the modality)
CASES: dict[str, dict[str, tuple[dict, dict]]] = {
    "image": {
        "vit": ({**VIT, **NEITHER_DROPS}, {"size": 24}),
        "vit without class token": ({**VIT, **NEITHER_DROPS, "class_token": False}, {"size": 24}),
        "siglip": ({"arch": "siglip_vision_model", **TINY, "patch_size": 8, "image_size": 24, "vision_use_head": False}, {"size": 24}),
        "siglip pooled": ({"arch": "siglip_vision_model", **TINY, "patch_size": 8, "image_size": 24, "pooled": True}, {"size": 24}),
        "clip pooled": ({"arch": "clip_vision_model", **TINY, "patch_size": 8, "image_size": 24, "pooled": True}, {"size": 24}),
        "deit": ({"arch": "deit", **TINY, **NEITHER_DROPS, "patch_size": 8, "image_size": 24}, {"size": 24}),
        "second to last layer": ({**VIT, **NEITHER_DROPS, "num_hidden_layers": 2, "layer": -2}, {"size": 16}),
        "resnet": (RESNET, {"size": 32}),
        "resnet to a grid": ({**RESNET, "grid": 2}, {"size": 32}),
    },
    "audio": {
        "log-mel": (LOG_MEL, {"sampling_rate": 8000, "seconds": 0.2}),
        "log-mel of any length": (LOG_MEL, {"sampling_rate": 8000}),
        "wav2vec2": (WAV2VEC2, {"sampling_rate": 8000}),
        "wav2vec2 to tokens": ({**WAV2VEC2, "tokens": 3}, {"sampling_rate": 8000}),
        "whisper": (WHISPER, {"sampling_rate": 16000}),
    },
    "features": {"features": ({}, {}), "features in places": ({"places": 7}, {}), "features cut to places": ({"places": 3}, {})},
    "video": {
        "vit": ({**VIT, **NEITHER_DROPS}, {"size": 16, "frames": 3}),
        "vit of any length to a grid": ({**VIT, **NEITHER_DROPS, "grid": 1}, {"size": 16}),
        "resnet of any length": ({**RESNET, "grid": 2, "differences": True}, {"size": 32}),
        "resnet without time": ({**RESNET, "grid": 2, "time": "none"}, {"size": 32, "frames": 2}),
        "videomae": ({**VIDEOMAE, "num_frames": 4}, {"size": 16, "frames": 4}),
        "videomae to a grid": ({**VIDEOMAE, "num_frames": 4, "grid": 1}, {"size": 16, "frames": 4}),
        "vivit": ({"arch": "vivit", **TINY, "tubelet_size": [2, 8, 8], "num_frames": 4}, {"size": 16, "frames": 4}),
        "timesformer": ({"arch": "timesformer", **TINY, "patch_size": 8, "num_frames": 2}, {"size": 16, "frames": 2}),
    },
    "tokens": {
        "bert": ({"arch": "bert", **TINY}, {"tokenizer": "words"}),
        "roberta": ({"arch": "roberta", **TINY, "max_position_embeddings": 32}, {"tokenizer": "words", "max_tokens": 31}),
        "bert pooled": ({"arch": "bert", **TINY, "pooled": True}, {"tokenizer": "words"}),
        "siglip pooled": (
            {"arch": "siglip_text_model", **TINY, "max_position_embeddings": 12, "projection_size": 20, "pooled": True},
            {"tokenizer": "words", "max_tokens": 12, "filled": True},
        ),
        "gpt2": (GPT2, {"tokenizer": "bpe"}),
        "t5": (T5, {"tokenizer": "words", "max_tokens": 2000}),
        "bart": ({**BART, "dropout": 0.0}, {"tokenizer": "words"}),
    },
    "table": {"table": ({}, {"numbers": ["age"], "categories": ["sex"]})},
}
UNUSED = {
    "second to last layer": ("layers.1.", "layernorm"),
    "wav2vec2": ("masked_spec_embed",),
    "wav2vec2 to tokens": ("masked_spec_embed",),
}
every_case = pytest.mark.parametrize(("name", "case"), [(name, case) for name in names("encoder") for case in CASES.get(name, {})])


def raw(name, count=3):
    """Raw values of one modality; the last one is the shortest."""
    draw = np.random.default_rng(0)
    if name == "image":
        return [draw.integers(0, 255, (40, 40, 3), dtype=np.uint8) for _ in range(count)]
    if name == "audio":
        return [Sound(draw.uniform(-0.5, 0.5, 1600 - 300 * i).astype(np.float32), 8000) for i in range(count)]
    if name == "video":
        return [draw.integers(0, 255, (5 - i, 16, 16, 3), dtype=np.uint8) for i in range(count)]
    if name == "features":
        return [draw.normal(size=(5 - i, 6)).tolist() for i in range(count)]
    if name == "tokens":
        return SENTENCES[:count]
    return [{"age": 20.0 + i if i else None, "sex": "fm"[i % 2]} for i in range(count)]


def built(name, case):
    """(encoder, its modality fitted on the raw values)."""
    spec, settings = CASES[name][case]
    kind, media = find("encoder", name), find("modality", name)
    modality = media(media.Options(**settings))
    modality.fit(raw(name))
    own = {k: v for k, v in spec.items() if k in kind.Options.model_fields}
    network = {k: v for k, v in spec.items() if k not in own}
    arch = network.pop("arch", None)
    if arch == "vit" or (name == "video" and arch != "resnet"):
        network["image_size"] = settings["size"]
    if name == "tokens":
        network |= {"vocab_size": modality.vocab_size, "pad_token_id": modality.pad_id}
    torch.manual_seed(0)
    return kind(kind.Options(**own), AutoConfig.for_model(arch, **network) if arch else None, modality).eval(), modality


def opened(modality, values):
    return modality.collate([modality.open(value)[0] for value in values])


def test_every_encoder_is_tried():
    assert set(CASES) == set(names("encoder"))


@every_case
@torch.no_grad()
def test_shapes_are_as_announced(name, case):
    encoder, modality = built(name, case)
    tokens = encoder(**opened(modality, raw(name)))
    assert tokens.values.shape == (*tokens.mask.shape, encoder.width)
    assert tokens.mask.dtype == torch.bool and tokens.mask.any(1).all()
    assert encoder.num_tokens in (None, tokens.mask.shape[1])
    assert tokens.item is not None and tokens.item.shape == tokens.mask.shape
    assert torch.isfinite(tokens.values).all() and tokens.values[tokens.mask].std() > 0
    if tokens.grid is not None:
        assert tokens.grid[0] * tokens.grid[1] == tokens.mask.shape[1]
    if "class" in case or case == "siglip":
        assert tokens.grid == (3, 3)


@every_case
def test_every_parameter_gets_a_gradient(name, case):
    encoder, modality = built(name, case)
    values = encoder.train()(**opened(modality, raw(name))).values
    if not any(True for _ in encoder.parameters()):
        return
    (values * torch.randn_like(values)).sum().backward()
    expected = {n: p for n, p in encoder.named_parameters() if p.requires_grad and not any(u in n for u in UNUSED.get(case, ()))}
    for key, parameter in expected.items():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, key


@every_case
@torch.no_grad()
def test_a_unit_does_not_depend_on_its_batch(name, case):
    """Alone, the shortest clip is not padded; a network that cannot mask may feel the edge of the padding, and nothing more."""
    encoder, modality = built(name, case)
    together = encoder(**opened(modality, raw(name)))
    for unit in range(3):
        alone = encoder(**opened(modality, raw(name)[unit : unit + 1]))
        a, b = together.values[unit][together.mask[unit]], alone.values[0][alone.mask[0]]
        if case == "log-mel of any length":
            alike = torch.nn.functional.cosine_similarity(a, b)
            assert alike[:-1].min() > 0.99 and alike[-1] > 0.9
        else:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@every_case
@torch.no_grad()
def test_state_and_weights_are_all_there_is_to_save(name, case):
    encoder, modality = built(name, case)
    again, other = built(name, case)
    other.load_state(modality.state())
    again.load_state_dict(encoder.state_dict())
    before, after = encoder(**opened(modality, raw(name))), again(**opened(other, raw(name)))
    assert torch.equal(before.values, after.values) and torch.equal(before.mask, after.mask)


@every_case
@torch.no_grad()
def test_bfloat16(name, case):
    encoder, modality = built(name, case)
    exact = encoder(**opened(modality, raw(name))).values
    rough = encoder.bfloat16()(**opened(modality, raw(name))).values
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.99


@torch.no_grad()
def test_the_order_of_frames_is_told():
    """The same frames in another order, and the same order at another speed, give other tokens; without time only the order of tokens."""
    modality = find("modality", "video")
    for case, told in (("vit", True), ("resnet without time", False), ("videomae", True)):
        encoder, media = built("video", case)
        clip = raw("video")[0][: media.options.frames]
        slow = modality(media.options.model_copy(update={"frame_rate": 0.5}))
        there, back = (encoder(**opened(media, [frames])).values[0].sort(0).values for frames in (clip, clip[::-1].copy()))
        assert torch.allclose(there, back, atol=1e-5) != told, case
        later = encoder(**opened(slow, [clip])).values[0].sort(0).values
        assert torch.allclose(there, later, atol=1e-5) != (case == "vit"), case


@torch.no_grad()
def test_a_frame_alone_is_what_the_image_encoder_makes_of_it():
    encoder, media = built("video", "resnet without time")
    image = find("encoder", "image")
    other = image(image.Options(grid=2, first_pooling=False), encoder.network.config, None).eval()
    other.network.load_state_dict(encoder.network.state_dict())
    tensors = opened(media, raw("video"))
    frames = other(pixel_values=tensors["pixel_values_videos"].flatten(0, 1)).values
    torch.testing.assert_close(encoder(**tensors).values.flatten(), frames.flatten())


@torch.no_grad()
def test_differences_show_motion():
    """Of a clip that stands still they are 0; of one that moves they are the frame after less the frame before."""
    encoder, media = built("video", "resnet of any length")
    half = encoder.width // 2
    encoder.clock.share.zero_()
    clip = raw("video")[0]
    still = encoder(**opened(media, [np.stack([clip[0]] * 3)])).values
    assert still[..., half:].abs().max() == 0 and still[..., :half].std() > 0
    values = encoder(**opened(media, [clip[:3]])).values[0].unflatten(0, (3, 4))
    torch.testing.assert_close(values[1, :, half:], values[2, :, :half] - values[0, :, :half])


def test_a_video_model_says_how_many_frames_it_reads():
    kind, modality = find("encoder", "video"), find("modality", "video")
    config = AutoConfig.for_model("videomae", **{k: v for k, v in VIDEOMAE.items() if k != "arch"}, image_size=16, num_frames=4)
    assert kind.modality_options(config) == {"frames": 4} and kind.modality_options(AutoConfig.for_model("vit")) == {}
    with pytest.raises(RecipeError, match="write frames: 4"):
        kind(kind.Options(), config, modality(modality.Options(size=16, frames=8)))
    config.num_frames = 3
    with pytest.raises(RecipeError, match="a multiple of 2"):
        kind(kind.Options(), config, modality(modality.Options(size=16, frames=3)))


def test_a_missing_number_is_not_a_zero():
    encoder, modality = built("table", "table")
    tokens = encoder(**opened(modality, [{"age": None, "sex": "f"}, {"age": float(modality.means[0]), "sex": "f"}])).values
    assert not torch.allclose(tokens[0], tokens[1])


@pytest.mark.parametrize(
    ("arch", "room"), [("bert", 512), ("roberta", 510), ("gpt2", 512), ("bart", 512), ("t5", 512), ("clip_text_model", 77)]
)
def test_a_text_is_read_as_far_as_there_are_positions(arch, room):
    config = AutoConfig.for_model(arch, **({"pad_token_id": 1} if arch == "roberta" else {}))
    assert find("encoder", "tokens").modality_options(config) == {"max_tokens": room}


def test_a_text_encoder_refuses_what_does_not_fit():
    kind, (_, modality) = find("encoder", "tokens"), built("tokens", "bert")
    for spec, message in (
        ({"arch": "bert", **TINY, "vocab_size": 5}, "its vocabulary 5"),
        ({"arch": "bert", **TINY, "max_position_embeddings": 64}, "write max_tokens: 64"),
        ({"arch": "vit", **TINY}, "arch vit reads pixel_values, not text"),
    ):
        network = {k: v for k, v in spec.items() if k != "arch"}
        with pytest.raises(RecipeError, match=message):
            kind(kind.Options(), AutoConfig.for_model(spec["arch"], **network), modality)


def test_a_network_without_a_pooled_output_says_so():
    CASES["tokens"]["gpt2 pooled"] = ({**GPT2, "pooled": True}, {"tokenizer": "bpe"})
    try:
        encoder, modality = built("tokens", "gpt2 pooled")
    finally:
        del CASES["tokens"]["gpt2 pooled"]
    with pytest.raises(RecipeError, match="arch gpt2: it has no pooled output of its own; leave the encoder's `pooled` out"):
        encoder(**opened(modality, raw("tokens")))


def test_a_number_of_features_is_averaged_to_or_padded_to():
    kind, media = find("encoder", "features"), find("modality", "features")
    modality = media(media.Options())
    modality.fit(raw("features"))
    tokens = kind(kind.Options(places=7), None, modality)(**opened(modality, raw("features")))
    assert tokens.mask.sum(1).tolist() == [5, 4, 3] and tokens.values.shape == (3, 7, 6)
    with pytest.raises(RecipeError, match="tokens averages to a number, places pads to one"):
        kind(kind.Options(places=7, tokens=7), None, modality)
