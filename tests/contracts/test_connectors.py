"""What every connector promises, alone and in a composite."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForMultimodalLM, InstructBlipQFormerConfig
from transformers.activations import ACT2FN
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerEncoder

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import LOG_MEL, NEITHER_DROPS, VIT, assembled, picture, prepared, results, routed, sound

from chiasm.components import find, names
from chiasm.types import RecipeError, Step, Tokens

VARIANTS = {
    "linear without bias": {"type": "linear", "bias": False},
    "linear where widths differ": {"type": "linear", "always": False},
    "mlp without bias": {"type": "mlp", "bias": False, "activation": "gelu", "hidden": 7},
    "pixel_shuffle all": {"type": "pixel_shuffle", "factor": 4},
    "perceiver_resampler narrow": {"type": "perceiver_resampler", "tokens": 3, "depth": 1, "width": 8, "positions": "none"},
    "q_former bert": {"type": "q_former", "tokens": 5, "norm": "post", "cross_every": 1, "depth": 2},
    "q_former text": {"type": "q_former", "tokens": 5, "reads": "text", "depth": 3},
}
LINKS = {**{name: {"type": name} for name in names("connector")}, **VARIANTS}
every_connector = pytest.mark.parametrize("name", LINKS)
NEW_LENGTHS = {"pixel_shuffle": 4, "pixel_shuffle all": 1, "perceiver_resampler": 64, "perceiver_resampler narrow": 3, "q_former": 32}
TEXT = LINKS["q_former text"]


def connector(name):
    options = {key: value for key, value in LINKS[name].items() if key != "type"}
    kind = find("connector", LINKS[name]["type"])
    return kind(kind.Options(**options), 12, 20).eval()


def tokens(length=16):
    """Three units; the second has half of its tokens hidden, the third all."""
    mask = torch.ones(3, length, dtype=torch.bool)
    mask[1, length // 2 :] = False
    mask[2] = False
    side = round(length**0.5)
    return Tokens(torch.randn(3, length, 12), mask, item=torch.zeros(3, length, dtype=torch.long), grid=(side, side))


def prompt(rows):
    values = torch.randn(1, 4, 20, generator=torch.Generator().manual_seed(0)).expand(rows, -1, -1)
    return Tokens(values, torch.ones(rows, 4, dtype=torch.bool))


def through(link, source):
    """What a fusion gets of `source`; a connector that reads text reads the same four words for every row."""
    made = link(source)
    return link.read(made, prompt(made.rows), Step(mask=prompt(made.rows).mask)) if link.reads_text else made


@every_connector
def test_shapes_are_as_announced(name):
    link, source = connector(name), tokens()
    result = through(link, source)
    assert result.values.shape == (3, link.num_tokens(16), link.width) == (*result.mask.shape, 20)
    assert link.num_tokens(16) == NEW_LENGTHS.get(name, 5 if name.startswith("q_former") else 16)
    assert result.mask.dtype == torch.bool and result.mask.any(1).tolist() == [True, True, False]
    assert torch.equal(link.seen(link(source)), result.mask)
    assert result.item is not None and result.item.shape == result.mask.shape
    assert torch.isfinite(result.values).all()


@every_connector
def test_every_parameter_gets_a_gradient(name):
    link = connector(name).train()
    result = through(link, tokens())
    (result.values * torch.randn_like(result.values))[result.mask].sum().backward()
    for key, parameter in link.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 1e-6, key


@every_connector
def test_garbage_in_masked_tokens_reaches_neither_output_nor_gradient(name):
    link, clean = connector(name), tokens()
    hidden = ~clean.mask.unsqueeze(-1)
    visible = through(link, clean)
    for garbage in (float("nan"), float("inf"), 1e30):
        link.zero_grad()
        result = through(link, replace(clean, values=clean.values.masked_fill(hidden, garbage), memo={}))
        assert torch.equal(result.mask, visible.mask)
        assert torch.equal(result.values[result.mask], visible.values[visible.mask])
        result.values[result.mask].square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in link.parameters())


@every_connector
@torch.no_grad()
def test_a_unit_does_not_depend_on_its_batch(name):
    link, both = connector(name), tokens()
    alone = through(link, Tokens(both.values[1:2], both.mask[1:2], item=both.item[1:2], grid=both.grid))
    torch.testing.assert_close(through(link, both).values[1:2], alone.values)


@every_connector
@torch.no_grad()
def test_rows_that_share_a_unit_get_the_same_tokens(name):
    link, source = connector(name), tokens()
    shared = through(link, replace(source, share=torch.tensor([1, 0, 1, 2]))).by_row()
    apart = through(link, source)
    torch.testing.assert_close(shared.values[:3], apart.values[[1, 0, 1]])
    assert shared.mask.any(1).tolist() == [True, True, True, False]


@every_connector
@torch.no_grad()
def test_a_hidden_token_is_not_seen_and_a_visible_one_is(name):
    link, source = connector(name), tokens()
    before = through(link, source).values[1]
    for place, changes in ((0, True), (15, False)):
        values = source.values.clone()
        values[1, place] += 1.0
        after = through(link, replace(source, values=values, memo={}))
        seen = after.mask[1] if name.startswith(("linear", "mlp", "pixel_shuffle")) else slice(None)
        assert (not torch.allclose(before[seen], after.values[1][seen], atol=1e-4)) == changes


@every_connector
@torch.no_grad()
def test_weights_are_all_there_is_to_save(name):
    link, again, source = connector(name), connector(name), tokens()
    again.load_state_dict(link.state_dict())
    assert torch.equal(through(link, source).values, through(again, source).values)
    assert torch.equal(through(link, source).values, through(link, source).values)


# ---- against what the papers' own code computes


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pixel_shuffle_takes_the_patches_in_torchs_order(factor):
    kind = find("connector", "pixel_shuffle")
    link = kind(kind.Options(factor=factor), 12, 12 * factor**2)
    link.layer.weight.copy_(torch.eye(12 * factor**2))
    link.layer.bias.zero_()
    picture = torch.randn(2, 12, 4, 8)  # [U, C, rows, columns]
    source = Tokens(picture.flatten(2).transpose(1, 2), torch.ones(2, 32, dtype=torch.bool), grid=(4, 8))
    result = link(source)
    theirs = functional.pixel_unshuffle(picture, factor)  # [U, C * r * r, rows / r, columns / r], the channel slowest
    theirs = theirs.unflatten(1, (12, -1)).transpose(1, 2).flatten(1, 2)  # ours lays whole patches side by side
    assert torch.equal(result.values, theirs.flatten(2).transpose(1, 2))
    assert result.grid == (4 // factor, 8 // factor)


@torch.no_grad()
def test_pixel_shuffle_equals_idefics3s():
    link, x = connector("pixel_shuffle"), torch.randn(2, 36, 12)
    source = Tokens(x, torch.ones(2, 36, dtype=torch.bool), grid=(6, 6))
    torch.testing.assert_close(link(source).values, link.layer(Idefics3Connector.pixel_shuffle(None, x, 2)))


def test_pixel_shuffle_refuses_what_is_no_grid():
    link = connector("pixel_shuffle")
    with pytest.raises(RecipeError, match="17 tokens are no grid of squares of 4 patches; set encoders.NAME.class_token: false"):
        link.num_tokens(17)
    with pytest.raises(RecipeError, match="these tokens are not the patches of a grid; set encoders"):
        link(replace(tokens(), grid=None))
    with pytest.raises(RecipeError, match="3 x 4 patches cannot be divided into 2 x 2 squares"):
        link(Tokens(torch.randn(1, 12, 12), torch.ones(1, 12, dtype=torch.bool), grid=(3, 4)))


@torch.no_grad()
def test_the_resampler_is_flamingos_formula():
    link, source = connector("perceiver_resampler narrow"), tokens()
    layer, queries = link.layers[0], link.queries
    stream = queries.inlet.norm(queries.inlet.layer(source.values[1, :8]))  # what is visible of the second unit
    z, attention = queries.start, layer.attention
    keys = torch.cat([layer.norm_sources["stream"](stream), layer.norm_sources["latents"](z)])
    q, k, v = (
        f(x).unflatten(-1, (4, 2)).transpose(0, 1)
        for f, x in zip((attention.query, attention.key, attention.value), (layer.norm(z), keys, keys), strict=True)
    )
    z = z + attention.output(((q @ k.transpose(1, 2) / 2**0.5).softmax(-1) @ v).transpose(0, 1).flatten(1))
    z = layer.feed_forward(z)
    torch.testing.assert_close(link(source).values[1], queries.outlet(queries.norm(z)))


@torch.no_grad()
def test_the_q_formers_blocks_equal_instructblips():
    """Same weights, words of which some are hidden, a picture of which some is hidden, cross-attention in every second block."""
    settings = {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80, "encoder_hidden_size": 20}
    config = InstructBlipQFormerConfig(**settings, cross_attention_frequency=2, attn_implementation="eager")
    theirs = InstructBlipQFormerEncoder(config).eval()
    kind = find("connector", "q_former")
    ours = kind(kind.Options(tokens=5, depth=3, cross_every=2, norm="post", reads="text"), 12, 20).eval()
    for block, layer in zip(ours.blocks, theirs.layer, strict=True):
        for reader, attention in ((block.attend, layer.attention), (block.cross, getattr(layer, "crossattention", None))):
            if reader is not None:
                inner, outer = attention.attention, attention.output
                pairs = [("query", inner.query), ("value", inner.value), ("output", outer.dense)]
                for name, layer_of in pairs:
                    getattr(reader.attention, name).load_state_dict(layer_of.state_dict())
                reader.attention.key.weight.copy_(inner.key.weight)  # a bias of keys cancels in the softmax
                reader.norm.load_state_dict(outer.LayerNorm.state_dict())
        for step, first, second in (
            (block.feed_forward, layer.intermediate_query, layer.output_query),
            (block.feed_words, layer.intermediate, layer.output),
        ):
            if step is not None:
                step.layers[0].load_state_dict(first.dense.state_dict())
                step.layers[2].load_state_dict(second.dense.state_dict())
                step.norm.load_state_dict(second.LayerNorm.state_dict())
    stream, words = tokens(), Tokens(torch.randn(3, 6, 20), torch.arange(6) < torch.tensor([[6], [3], [6]]))
    stream = replace(stream, values=torch.randn(3, 16, 20))
    queries = ours.queries.begin(stream.present, stream.values)
    both, mask = torch.cat([queries.values, words.values], 1), torch.cat([queries.mask, words.mask], 1)
    hidden = [torch.where(m, 0.0, -1e9)[:, None, None] for m in (mask, stream.mask)]
    expected = theirs(both, hidden[0], stream.values, encoder_attention_mask=hidden[1], query_length=5).last_hidden_state[:, :5]
    for block in ours.blocks:
        queries, words = block(queries, words, stream, Step(mask=mask))
    torch.testing.assert_close(queries.values[:2], expected[:2], rtol=1e-4, atol=1e-5)  # the third unit has nothing to read


# ---- in a composite


def composite(link, fusion, backbone="gpt2", **changes):
    """A tiny model whose pictures go through `link`; the sound keeps a linear connector."""
    encoders = {"image": {**VIT, **NEITHER_DROPS, "class_token": False, "connector": link}, "audio": LOG_MEL}
    return assembled({"type": fusion}, backbone, encoders=encoders, **changes)


def alike(left, right, within=1e-5):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within * max(1.0, float(a.abs().max())))


@pytest.mark.parametrize("fusion", ["early", "cross_attention"])
@pytest.mark.parametrize("name", [n for n in LINKS if "all" not in n and n != "perceiver_resampler"])
@torch.no_grad()
def test_a_row_of_a_composite_depends_on_its_own_inputs_only(name, fusion, tmp_path):
    """Absent pictures, shared and several ones, other rows; and a saved model gives the same."""
    model, processor = composite(
        {**LINKS[name], "tokens": 3} if "tokens" in find("connector", LINKS[name]["type"]).Options.model_fields else LINKS[name], fusion
    )
    images = [picture(0), None, [picture(1), picture(2)]]
    inputs = prepared(processor, [0, 1, 2], image=images)
    together = results(model, inputs)
    alone = [results(model, prepared(processor, [i], image=[images[i]], audio=[sound(i)]))[0] for i in range(3)]
    alike(together, alone)
    apart = prepared(processor, [0, 1, 2], image=[picture(5), picture(5), picture(6)])
    shared = {**apart, "pixel_values": apart["pixel_values"][1:], "image_index": torch.tensor([[0], [0], [1]])}
    alike(results(model, apart), results(model, shared))
    model.save_pretrained(tmp_path)
    alike(together, results(AutoModelForMultimodalLM.from_pretrained(tmp_path), inputs), within=1e-6)


FUSIONS_READ = ("early", "cross_attention", "co_attention", "late")
every_fusion = pytest.mark.parametrize("fusion", FUSIONS_READ)


@every_fusion
@torch.no_grad()
def test_fu15_what_read_the_prompt_equals_token_by_token(fusion):
    """Row 0 has no picture, row 1 is padded on the left, and the answer is read with a cache of the prompt."""
    model, processor = composite(TEXT, fusion)
    inputs = prepared(processor, [0, 2, 1], image=[None, picture(1), picture(2)], padding_side="left")
    answer = torch.tensor([processor.encode([text], user=True)[0][:2] for text in ("is there", "what is", "a blue")])
    ids, mask = torch.cat([inputs["input_ids"], answer], 1), torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1)
    whole = model(**{**inputs, "input_ids": ids, "attention_mask": mask}, prompt_lengths=inputs["attention_mask"].sum(1)).logits
    text, streams = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}, routed(model, inputs)
    output = model(**text, streams=streams, use_cache=True)
    steps = [output.logits[:, -1]]
    for t in range(inputs["input_ids"].shape[1], ids.shape[1]):
        past = output.past_key_values
        output = model(ids[:, t : t + 1], mask[:, : t + 1], past_key_values=past, use_cache=True, streams=streams)
        steps.append(output.logits[:, -1])
    torch.testing.assert_close(whole[:, -3:], torch.stack(steps, 1), rtol=1e-4, atol=1e-4)


@every_fusion
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_fu15_generate_with_a_cache_equals_without(fusion, beams):
    model, processor = composite(TEXT, fusion)
    inputs = prepared(processor, [0, 2, 1], image=[None, picture(1), [picture(2), picture(3)]], padding_side="left")
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": beams, "output_scores": True, "return_dict_in_generate": True}
    cached, plain = (model.generate(**inputs, **settings, do_sample=False, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.scores), torch.stack(plain.scores), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_fu8_the_answer_does_not_reach_what_reads_the_prompt():
    model, processor = composite(TEXT, "early")
    inputs = prepared(processor, [2])
    length = inputs["input_ids"].shape[1] - 2
    changed = inputs["input_ids"].clone()
    changed[0, -1] = processor.end_id
    lengths = torch.tensor([length])
    before, after = (model(**{**inputs, "input_ids": ids}, prompt_lengths=lengths).logits[0] for ids in (inputs["input_ids"], changed))
    assert torch.equal(before[:-1], after[:-1]) and not torch.allclose(before[-1], after[-1])


@torch.no_grad()
def test_what_is_asked_changes_what_is_seen():
    """The picture's tokens differ with the words, and neither padding nor placeholders count as words."""
    model, processor = composite(TEXT, "early")
    link, seen = model.model.connectors["image"], {}
    read = link.read
    link.read = lambda tokens, prompt, step: seen.setdefault(len(seen), read(tokens, prompt, step))
    inputs = prepared(processor, [0, 1], image=[picture(0), picture(0)])
    results(model, inputs)
    assert not torch.allclose(seen[0].values[0], seen[0].values[1], atol=1e-3)
    pads, zeros = inputs["input_ids"].new_full((2, 3), processor.pad_id), inputs["attention_mask"].new_zeros(2, 3)
    for pair in ((0, 1), (1, 0)):
        ids, mask = (torch.cat([(a, b)[i] for i in pair], 1) for a, b in ((inputs["input_ids"], pads), (inputs["attention_mask"], zeros)))
        results(model, {**inputs, "input_ids": ids, "attention_mask": mask})
        torch.testing.assert_close(seen[len(seen) - 1].values, seen[0].values)
    model.get_input_embeddings().weight[list(model.config.placeholder_ids.values())] += 1.0
    results(model, inputs)
    assert torch.equal(seen[len(seen) - 1].values, seen[0].values)


def test_a_bidirectional_backbone_lets_it_read_all():
    model, processor = composite(TEXT, "cross_attention", "bert")
    inputs = prepared(processor, [0, 1])
    changed = inputs["input_ids"].clone()
    changed[0, -2] = processor.end_id
    made = []
    link = model.model.connectors["image"]
    read = link.read
    link.read = lambda *given: made.append(read(*given)) or made[-1]
    for ids in (inputs["input_ids"], changed):
        results(model, {**inputs, "input_ids": ids})
    assert not torch.allclose(made[0].values[0], made[1].values[0], atol=1e-4) and torch.equal(made[0].values[1], made[1].values[1])


def test_where_there_is_no_text_to_read_it_is_refused():
    with pytest.raises(RecipeError, match=r"encoders.image.connector: it reads the prompt's text, and this backbone has none"):
        composite(TEXT, "cross_attention", "latent")
    tasks = {
        "align": {"type": "contrast", "between": ["image", "caption"]},
        "answer": {"type": "generate", "prompt": "{question}", "target": "{answer}"},
    }
    with pytest.raises(
        RecipeError, match=r"tasks.align: the connector of image reads the prompt's text, and this task has none; use reads: none"
    ):
        composite(TEXT, "cross_attention", tasks=tasks)
    model, processor = composite(TEXT, "cross_attention")
    with pytest.raises(TypeError, match="reads the prompt's text"):
        model.get_image_features(prepared(processor, [0])["pixel_values"])


def test_heads_must_divide_the_width():
    kind = find("connector", "perceiver_resampler")
    with pytest.raises(RecipeError, match="connector.heads: width 20 is not divisible by 3 heads"):
        kind(kind.Options(heads=3), 12, 20)


@torch.no_grad()
def test_a_linear_layer_may_be_left_out_where_widths_are_equal():
    kind = find("connector", "linear")
    link = kind(kind.Options(always=False), 12, 12)
    source = tokens()
    assert torch.equal(link(source).values[source.mask], source.values[source.mask]) and not list(link.parameters())


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "theirs"), [("gelu_tanh", "gelu_pytorch_tanh"), ("gelu", "gelu"), ("quick_gelu", "quick_gelu"), ("silu", "silu")]
)
def test_what_stands_between_the_layers_is_transformers_own(name, theirs):
    kind, x = find("connector", "mlp"), torch.randn(5, 12)
    link = kind(kind.Options(activation=name), 12, 20)
    first, _, second = link.layers
    torch.testing.assert_close(link.project(x), second(ACT2FN[theirs](first(x))))
