"""FU1 to FU15: what every fusion promises, on every kind of backbone, through tiny two-layer composites with pictures and sounds."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMultimodalLM

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import (
    CAUSAL,
    FUSIONS,
    OWN_WEIGHTS,
    assembled,
    calm,
    cells,
    counted_macs,
    marked,
    picture,
    prepared,
    results,
    routed,
    sound,
    tiny,
)

from chiasm.components import find
from chiasm.fusion.cost import cost
from chiasm.types import RecipeError, Tokens

every_cell = pytest.mark.parametrize(("fusion", "backbone"), marked(cells()))
every_causal_cell = pytest.mark.parametrize(("fusion", "backbone"), [cell for cell in cells() if cell[1] in CAUSAL])


def same(left: list[torch.Tensor], right: list[torch.Tensor], *, within: float = 1e-5) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within * max(1.0, float(a.detach().abs().max())))


def with_hidden_tokens(streams):
    """The last token of each unit hidden, and everything of the last unit."""
    hidden = {}
    for name, tokens in streams.items():
        mask = tokens.mask.clone()
        mask[:, -1], mask[-2] = False, False  # the very last unit is "absent" already
        hidden[name] = replace(tokens, mask=mask)
    return hidden


@every_cell
@torch.no_grad()
def test_fu1_garbage_in_masked_tokens_changes_nothing(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 1, 2])
    clean = with_hidden_tokens(routed(model, inputs))
    before = results(model, inputs, clean)
    for garbage in (float("nan"), float("inf"), 1e30):
        filled = {n: replace(t, values=t.values.masked_fill(~t.mask.unsqueeze(-1), garbage)) for n, t in clean.items()}
        for a, b in zip(before, results(model, inputs, filled), strict=True):
            assert torch.equal(a, b)


@every_cell
@torch.no_grad()
def test_fu2_padding_changes_nothing(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 1, 2])
    before = results(model, inputs)
    for side in ("right", "left") if model.model.backbone_kind.causal else ("right",):
        if not model.model.backbone_kind.reads_text:
            break
        pads, zeros = inputs["input_ids"].new_full((3, 4), processor.pad_id), inputs["attention_mask"].new_zeros(3, 4)
        parts = [(inputs["input_ids"], pads), (inputs["attention_mask"], zeros)]
        ids, mask = (torch.cat(pair if side == "right" else pair[::-1], 1) for pair in parts)
        same(before, results(model, {**inputs, "input_ids": ids, "attention_mask": mask}))
    streams = routed(model, inputs)
    image = streams["image"]
    longer = Tokens(torch.cat([image.values, 7 * image.values], 1), torch.cat([image.mask, ~image.mask & False], 1), share=image.share)
    same(before, results(model, inputs, {**streams, "image": longer}))


@every_cell
@torch.no_grad()
def test_fu3_a_row_does_not_depend_on_its_batch(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    together = results(model, prepared(processor, [0, 1, 2], image=[picture(0), None, picture(2)], audio=[None, sound(1), sound(2)]))
    alone = [
        results(model, prepared(processor, [i], image=[None if i == 1 else picture(i)], audio=[None if i == 0 else sound(i)]))[0]
        for i in range(3)
    ]
    same(together, alone)


@every_cell
@torch.no_grad()
def test_fu4_an_absent_input_is_as_one_that_is_not_passed(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    for kept in ({"image"}, {"audio"}, set()):
        image, audio = ([picture(0) if "image" in kept else None], [sound(0) if "audio" in kept else None])
        alone = results(model, prepared(processor, [0], image=image, audio=audio))
        beside = results(model, prepared(processor, [0, 1], image=[*image, picture(1)], audio=[*audio, sound(1)]))
        assert torch.isfinite(alone[0]).all()
        same(alone, beside[:1])


@every_cell
def test_fu5_rows_with_nothing_visible_give_no_nan(fusion, backbone):
    model, processor = copy.deepcopy(tiny(fusion, backbone))
    inputs = prepared(processor, [0, 1])
    inputs["attention_mask"][1, 1:] = 0
    streams = routed(model.train(), inputs)
    nothing = {
        name: replace(t, values=t.values.masked_fill(torch.tensor(True), torch.nan), mask=t.mask & False) for name, t in streams.items()
    }
    for given in (streams, nothing, with_hidden_tokens(streams)):
        model.zero_grad()
        found = results(model, inputs, given)
        assert all(torch.isfinite(row).all() for row in found)
        sum(row.square().sum() for row in found).backward(retain_graph=True)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_cell
@torch.no_grad()
def test_fu6_the_order_of_the_inputs(fusion, backbone):
    """The same weights, by name, in a model whose recipe declares its inputs the other way round."""
    model, processor = tiny(fusion, backbone)
    inputs = {n: spec for n, spec in model.config.inputs.items() if n != "question"}
    declared = {n: {"modality": n, **spec["options"]} for n, spec in reversed(inputs.items())}
    declared |= {"question": "text"} if "question" in model.config.inputs else {}
    again, reader = assembled(FUSIONS.get(fusion, OWN_WEIGHTS), backbone, inputs=declared)
    assert list(again.model.shapes) == ["audio", "image"] and list(model.model.shapes) == ["image", "audio"]
    again.load_state_dict(model.state_dict())
    which = [[0, 1, 2], [picture(0), None, picture(2)], [None, sound(1), sound(2)]]
    before, after = (results(m, prepared(p, which[0], image=which[1], audio=which[2])) for m, p in ((model, processor), (again, reader)))
    if model.fusion.order_free:
        same(before, after)
    elif type(model.fusion) is not find("fusion", "hybrid"):  # whose parts may have one input each
        assert before[2].shape != after[2].shape or not torch.allclose(before[2], after[2], atol=1e-3)


@every_cell
@torch.no_grad()
def test_fu7_without_positions_the_order_of_a_streams_tokens(fusion, backbone):
    """Permuted tokens leave the text as it was, and stay permuted. In a sequence (early fusion) places are the backbone's own."""
    spec = FUSIONS.get(fusion, OWN_WEIGHTS)
    parts = [{**part, "positions": "none"} for part in spec.get("parts", ())]
    model, processor = assembled({**spec, **({"parts": parts} if parts else {"positions": "none"})}, backbone)
    inputs = prepared(processor, [0, 1, 2])
    streams = routed(model, inputs)
    order = {n: torch.randperm(t.mask.shape[1]) for n, t in streams.items() if n not in processor.placeholder_counts}
    streams = {n: replace(t, mask=t.mask & (torch.arange(t.mask.shape[1]) != 1)) for n, t in streams.items()}  # one of them hidden
    permuted = {n: replace(t, values=t.values[:, order[n]], mask=t.mask[:, order[n]]) if n in order else t for n, t in streams.items()}
    ends: list[dict[str, Tokens]] = []
    after = model.fusion.after
    model.fusion.after = lambda text, streams, step: (ends.append(streams), after(text, streams, step))[1]
    same(results(model, inputs, streams), results(model, inputs, permuted))
    for name, tokens in ends[0].items():
        own = name.rpartition("/")[2]  # a hybrid's streams are called part/input
        wanted = tokens.values[:, order[own]] if own in order else tokens.values
        torch.testing.assert_close(ends[1][name].values, wanted, rtol=1e-5, atol=1e-5)


@every_causal_cell
@torch.no_grad()
def test_fu8_the_future_does_not_reach_the_past(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [2])
    changed = inputs["input_ids"].clone()
    changed[0, -2] = processor.end_id
    before, after = (model(**{**inputs, "input_ids": ids}).logits[0] for ids in (inputs["input_ids"], changed))
    assert torch.equal(before[:-2], after[:-2])
    assert not torch.allclose(before[-2:], after[-2:])


@every_causal_cell
@torch.no_grad()
def test_fu15_teacher_forced_equals_token_by_token(fusion, backbone):
    """Row 0 has no picture, row 1 is padded on the left, and the answer is read with a cache of the prompt."""
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 2, 1], image=[None, picture(1), picture(2)], padding_side="left")
    answer = torch.tensor([processor.encode([text], user=True)[0][:2] for text in ("is there", "what is", "a blue")])
    ids = torch.cat([inputs["input_ids"], answer], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1)
    prompt = inputs["attention_mask"].sum(1)
    whole = model(**{**inputs, "input_ids": ids, "attention_mask": mask}, prompt_lengths=prompt).logits
    text, streams = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}, routed(model, inputs)
    output = model(**text, streams=streams, use_cache=True)
    steps = [output.logits[:, -1]]
    for t in range(inputs["input_ids"].shape[1], ids.shape[1]):
        past = output.past_key_values
        output = model(ids[:, t : t + 1], mask[:, : t + 1], past_key_values=past, use_cache=True, streams=streams)
        steps.append(output.logits[:, -1])
    torch.testing.assert_close(whole[:, -3:], torch.stack(steps, 1), rtol=1e-4, atol=1e-4)


@every_causal_cell
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_fu15_generate_with_a_cache_equals_without(fusion, backbone, beams):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 2, 1], image=[None, picture(1), picture(2)], padding_side="left")
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": beams, "output_scores": True, "return_dict_in_generate": True}
    cached, plain = (model.generate(**inputs, **settings, do_sample=False, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.scores), torch.stack(plain.scores), rtol=1e-4, atol=1e-4)
    if beams == 1:  # what was written greedily is what the whole sequence at once says
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 4, dtype=torch.long)], 1)
        given = {**inputs, "input_ids": cached.sequences[:, :-1], "attention_mask": mask}
        logits = model(**given, prompt_lengths=inputs["attention_mask"].sum(1)).logits[:, -5:]
        logits[..., [*model.config.placeholder_ids.values(), processor.end_id]] = -torch.inf
        assert torch.equal(logits.argmax(-1), cached.sequences[:, -5:])


@pytest.mark.parametrize("backbone", CAUSAL)
@torch.no_grad()
def test_a_placeholder_without_its_picture_stays_hidden_while_generating(backbone):
    model, processor = tiny("early", backbone)
    with_place = processor(text=["<image>what is this sound ?", "<image>is there a red cat ?"], images=[None, picture(0)])
    without = processor(text=["what is this sound ?"])
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    both = model.generate(**with_place, **settings)
    assert torch.equal(both[:1, -4:], model.generate(**without, **settings)[:, -4:])


@every_cell
def test_fu9_every_parameter_of_the_fusion_gets_a_gradient(fusion, backbone):
    model, processor = copy.deepcopy(tiny(fusion, backbone))
    with model.fusion.gates_open():
        found = torch.cat(results(model.train(), prepared(processor, [0, 1, 2])))
        (found * torch.randn_like(found)).sum().backward()
    connectors = model.model.connectors.named_parameters() if model.fusion.reads_streams else ()
    for name, parameter in (*model.fusion.named_parameters(), *connectors):
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-6, name


@every_cell
@torch.no_grad()
def test_fu10_bfloat16(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs, model = prepared(processor, [0, 1, 2]), calm(model)
    half = copy.deepcopy(model).bfloat16()
    for exact, rough in zip(results(model, inputs), results(half, inputs), strict=True):
        assert rough.dtype == torch.bfloat16
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.999


@every_cell
def test_fu11_the_cost_is_what_torch_counts(fusion, backbone):
    """Parameters exactly, multiply-accumulates within 1 % of what torch counts in the hooks of a real pass."""
    model, processor = copy.deepcopy(tiny(fusion, backbone))
    model.requires_grad_(False)  # else torch's counter stumbles over views of parameters
    inputs = prepared(processor, [2])
    streams = {n: t.by_row() for n, t in routed(model, inputs).items()}
    found = cost(model.fusion, inputs["input_ids"].shape[1], {n: t.mask.shape[1] for n, t in streams.items()})
    assert found.parameters == sum(p.numel() for p in model.fusion.parameters())
    assert found.macs == pytest.approx(counted_macs(model, lambda: results(model, inputs, streams)), rel=0.01)
    assert found.macs > 0 or not model.fusion.layers


@every_cell
@torch.no_grad()
def test_fu12_looking_at_attention_changes_nothing(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 1, 2], image=[picture(0), None, picture(2)])
    mask = inputs["attention_mask"]
    given = {"input_ids": inputs["input_ids"], "attention_mask": mask, "streams": routed(model, inputs), "prompt_lengths": mask.sum(1)}
    plain, traced = model.model(**given), model.model(**given, output_attentions=True)
    torch.testing.assert_close(plain.last_hidden_state, traced.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert not plain.fused.trace
    assert bool(traced.fused.trace) == any("Attention" in type(m).__name__ for m in model.fusion.modules() if m is not model.fusion)
    for weights in traced.fused.trace.values():  # [R, H, T, L]
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@every_cell
@torch.no_grad()
def test_fu13_copies_and_saved_models_are_equal(fusion, backbone, tmp_path):
    model, processor = tiny(fusion, backbone)
    inputs = prepared(processor, [0, 1, 2])
    before = results(model, inputs)
    model.save_pretrained(tmp_path)
    for again in (AutoModelForMultimodalLM.from_pretrained(tmp_path), copy.deepcopy(model)):
        weights = again.state_dict()
        assert set(weights) == set(model.state_dict())
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
        same(before, results(again, inputs), within=1e-6)  # memory mapped from a file is aligned otherwise, so sums may round otherwise


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "backbone"), [cell for cell in cells() if cell[1] in ("gpt2", "bert")])
@torch.no_grad()
def test_fu13_compiled_it_is_the_same(fusion, backbone):
    """As torch traces it; what a backend makes of the trace is the backend's."""
    model, processor = copy.deepcopy(tiny(fusion, backbone))
    inputs = prepared(processor, [0, 1, 2], image=[picture(0), None, picture(2)])
    before = results(model, inputs)
    torch._dynamo.reset()
    model.model.compile(backend="eager")
    same(before, results(model, inputs))


@every_cell
@torch.no_grad()
def test_fu13_a_copy_does_not_reach_into_the_original(fusion, backbone):
    original, processor = tiny(fusion, backbone)
    model = copy.deepcopy(original)
    inputs = prepared(processor, [0, 1])
    before = results(original, inputs)
    for parameter in model.fusion.parameters():
        parameter.zero_()
    for a, b in zip(before, results(original, inputs), strict=True):
        assert torch.equal(a, b)
    if model.fusion.layers:
        assert not torch.equal(before[0], results(model, inputs)[0])
        assert model._call is None if hasattr(model, "_call") else model.model._call is None


@pytest.mark.parametrize(("fusion", "backbone"), marked(cell for cell in cells() if cell[0] != "none"))
def test_fu13_one_step_of_opacus(fusion, backbone):
    """Gradients of each row by itself go through opacus' optimizer. Where it neither clips nor adds noise its step is the plain one; where
    it clips, no row moves the weights further than the bound."""
    from opacus.optimizers import DPOptimizer

    original, processor = tiny(fusion, backbone)
    rows = [prepared(processor, [i]) for i in range(2)]

    def stepped(bound: float | None) -> list[torch.Tensor]:
        """How far each parameter of the fusion moves in one step of gradient descent; bound None: without opacus."""
        model = copy.deepcopy(original)
        parameters = list(model.fusion.parameters())
        before, each = [p.detach().clone() for p in parameters], []
        for row in rows:
            gradients = torch.autograd.grad(sum(r.square().sum() for r in results(model, row)), parameters, allow_unused=True)
            each.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)])
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        if bound is not None:
            optimizer = DPOptimizer(optimizer, noise_multiplier=0.0, max_grad_norm=bound, expected_batch_size=len(rows))
        for parameter, *found in zip(parameters, *each, strict=True):
            parameter.grad = sum(found) / len(rows)
            parameter.grad_sample = torch.stack(found)  # [rows, *shape], as opacus wants it
        optimizer.step()
        return [(p.detach() - b) for p, b in zip(parameters, before, strict=True)]

    plain, open_, clipped = stepped(None), stepped(1e9), stepped(1e-2)
    for a, b in zip(plain, open_, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert 0 < torch.cat([move.flatten() for move in clipped]).norm() <= 1e-2 * 1.001


@every_cell
@torch.no_grad()
def test_texts_that_share_a_picture(fusion, backbone):
    model, processor = tiny(fusion, backbone)
    apart = prepared(processor, [0, 1, 2], image=[picture(5), picture(5), picture(6)])
    shared = {**apart, "pixel_values": apart["pixel_values"][1:], "image_index": torch.tensor([[0], [0], [1]])}
    same(results(model, apart), results(model, shared), within=1e-6)


@every_cell
@torch.no_grad()
def test_several_pictures_in_a_row(fusion, backbone):
    """Two pictures are more than the first alone, and a row with one does not notice the other row's two."""
    model, processor = tiny(fusion, backbone)
    one = prepared(processor, [0, 1], image=[[picture(0)], [picture(1)]])
    two = prepared(processor, [0, 1], image=[[picture(0)], [picture(1), picture(2)]])
    assert two["image_index"].tolist() == [[0, -1], [1, 2]]
    before, after = results(model, one), results(model, two)
    same(before[:1], after[:1])
    if model.fusion.reads_streams:
        assert before[1].shape != after[1].shape or not torch.allclose(before[1], after[1], atol=1e-4)


@every_cell
@pytest.mark.parametrize("name", ["image", "audio"])
@torch.no_grad()
def test_a_declared_input_reaches_the_output(fusion, backbone, name):
    model, processor = tiny(fusion, backbone)
    first, second = (prepared(processor, [0, 0], **{name: [media(1), media(seed)]}) for seed in (1, 2) for media in [MEDIA[name]])
    before, after = results(model, first), results(model, second)
    assert torch.equal(before[0], after[0])
    assert torch.allclose(before[1], after[1], atol=1e-5) != model.fusion.reads_streams  # row 0 is bit-equal: no noise


MEDIA = {"image": picture, "audio": sound}


@pytest.mark.parametrize("backbone", CAUSAL)
@torch.no_grad()
def test_closed_gates_are_the_bare_language_model(backbone):
    model, processor = assembled(FUSIONS["gated_cross_attention"], backbone)
    inputs = prepared(processor, [0, 1, 2])
    bare = model.model.backbone.run(model.get_input_embeddings()(inputs["input_ids"]), inputs["attention_mask"].bool(), None)
    assert torch.equal(model(**inputs).logits, model.lm_head(bare.last_hidden_state))
    gates = [g.clone() for g in model.fusion.gates()]
    with model.fusion.gates_open():
        assert not torch.equal(model(**inputs).logits, model.lm_head(bare.last_hidden_state))
    assert all(torch.equal(a, b) for a, b in zip(gates, model.fusion.gates(), strict=True))


@pytest.mark.parametrize("backbone", ["qwen3", "bert"])
def test_own_weights_need_a_backbone_that_has_them(backbone):
    with pytest.raises(RecipeError, match="no cross-attention of its own"):
        assembled({"type": "cross_attention", "weights": "backbone"}, backbone)


def test_hybrid_keeps_the_votes_of_its_parts():
    """An absent input's branch has no weight, whichever part it belongs to."""
    model, processor = tiny("hybrid late", "gpt2")
    inputs = prepared(processor, [0, 1], image=[None, picture(1)])
    fused = model.model(**{k: inputs[k] for k in ("input_ids", "attention_mask")}, streams=routed(model, inputs)).fused
    assert list(fused.branches) == ["text", "image", "audio"]
    torch.testing.assert_close(fused.mix, torch.tensor([[1 / 2, 0, 1 / 2], [1 / 3, 1 / 3, 1 / 3]]))
