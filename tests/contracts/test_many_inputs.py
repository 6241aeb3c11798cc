"""The fusion contracts with 1, 3 and 5 modalities (ready-made features, and a picture), on lengths, masks, batches and presence patterns
that hypothesis chooses."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMultimodalLM

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import FEATURES, NEITHER_DROPS, VIT, WORDS, assembled, calm, counted_macs, picture, results, routed, vectors

from chiasm.components import names
from chiasm.fusion.cost import cost
from chiasm.types import Streams, Tokens

INPUTS = {1: FEATURES[:1], 3: (*FEATURES[:2], "image"), 5: (*FEATURES, "image")}
FUSIONS: dict[str, dict[str, Any]] = {
    **{name: {"type": name} for name in names("fusion") if name != "none"},
    "hybrid": {"type": "hybrid", "parts": [{"type": "co_attention"}, {"type": "late", "combine": "weighted"}]},
    "late of votes": {"type": "late", "combine": "decisions"},
    "late low_rank": {"type": "late", "combine": "low_rank"},
    "late film": {"type": "late", "combine": "film"},
    "alpha printed": {"type": "alpha_gated", "form": "printed", "align": "attention"},
}
BACKBONES = ("gpt2", "bert", "latent")
CELLS = [(fusion, backbone, count) for fusion in FUSIONS for backbone in BACKBONES for count in INPUTS]
GARBAGE = (float("nan"), float("inf"), 1e30)
pytestmark = pytest.mark.slow
every_cell = pytest.mark.parametrize(("fusion", "backbone", "count"), CELLS)
examples = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@lru_cache(maxsize=len(CELLS))
def tiny(fusion: str, backbone: str, count: int, *, turned: bool = False) -> tuple[Any, Any]:
    """(model in eval mode with half-open gates, processor); `turned`: its inputs are declared the other way round."""
    declared: dict[str, Any] = {name: {"modality": "features"} for name in INPUTS[count]}
    if "image" in declared:
        declared["image"] = {"modality": "image", "size": 16}
    declared = dict(reversed(declared.items())) if turned else declared
    declared |= {} if backbone == "latent" else {"question": "text"}
    features = {"tokens": 2} if fusion == "early" else {}
    encoders = {"features": features, **({"image": {**VIT, **NEITHER_DROPS}} if "image" in declared else {})}
    model, processor = assembled(FUSIONS[fusion], backbone, inputs=declared, encoders=encoders)
    with torch.no_grad():
        for gate in model.fusion.gates():
            gate.fill_(0.5)
    return model, processor


@st.composite
def batches(draw: Any, count: int) -> list[dict[str, Any]]:
    """Rows of {text: which, input: (seed, length)}; an input that a row lacks is not in it."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        present = {name for name in INPUTS[count] if draw(st.booleans())}
        rows.append({"text": draw(st.integers(0, 2)), **{n: (draw(st.integers(0, 99)), draw(st.integers(1, 4))) for n in sorted(present)}})
    return rows


def opened(processor: Any, rows: list[dict[str, Any]], **more: Any) -> Any:
    """The processor's output for such rows; an input that no row has is left out."""
    texts = [WORDS[row["text"]] if "question" in processor.inputs else "" for row in rows]
    media = {}
    for name in processor.modalities:
        values = [None if name not in row else picture(row[name][0]) if name == "image" else vectors(*row[name]) for row in rows]
        if any(value is not None for value in values):
            media[name] = values
    return processor(text=texts, **media, **more)


def everything(count: int) -> list[dict[str, Any]]:
    """Three rows that have every input."""
    return [{"text": i, **{name: (7 * i + place, 2 + place % 2) for place, name in enumerate(INPUTS[count])}} for i in range(3)]


def hidden(data: Any, streams: Streams) -> Streams:
    """Some tokens hidden, of some streams all."""
    masks = {n: data.draw(st.lists(st.booleans(), min_size=t.mask.numel(), max_size=t.mask.numel())) for n, t in streams.items()}
    return {n: replace(t, mask=t.mask & torch.tensor(masks[n]).view_as(t.mask)) for n, t in streams.items()}


def same(left: list[torch.Tensor], right: list[torch.Tensor], within: float = 1e-5) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within * max(1.0, float(a.abs().max())))


@every_cell
@examples
@given(data=st.data())
@torch.no_grad()
def test_fu1_and_fu2_garbage_and_padding_change_nothing(fusion, backbone, count, data):
    model, processor = tiny(fusion, backbone, count)
    inputs = opened(processor, data.draw(batches(count)))
    streams = hidden(data, routed(model, inputs))
    before, garbage = results(model, inputs, streams), data.draw(st.sampled_from(GARBAGE))
    filled = {n: replace(t, values=t.values.masked_fill(~t.mask.unsqueeze(-1), garbage)) for n, t in streams.items()}
    assert all(torch.equal(a, b) for a, b in zip(before, results(model, inputs, filled), strict=True))
    extra = data.draw(st.integers(1, 3))
    fixed = {n: shape.num_tokens for n, shape in model.model.shapes.items()}  # places are learned: whole items only
    longer = {n: lengthened(t, fixed[n] or extra, garbage) for n, t in filled.items()}
    same(before, results(model, inputs, longer))


def lengthened(tokens: Tokens, extra: int, garbage: float) -> Tokens:
    """With hidden tokens behind the others."""
    values = torch.cat([tokens.values, torch.full_like(tokens.values[:, :1], garbage).expand(-1, extra, -1)], 1)
    mask = torch.cat([tokens.mask, torch.zeros_like(tokens.mask[:, :1]).expand(-1, extra)], 1)
    return Tokens(values, mask, share=tokens.share)


@every_cell
@examples
@given(data=st.data())
@torch.no_grad()
def test_fu3_and_fu4_a_row_is_as_if_it_were_alone_with_the_inputs_it_has(fusion, backbone, count, data):
    model, processor = tiny(fusion, backbone, count)
    rows = data.draw(batches(count))
    together = results(model, opened(processor, rows))
    assert all(torch.isfinite(row).all() for row in together)
    same(together, [results(model, opened(processor, [row]))[0] for row in rows])


@every_cell
@examples
@given(data=st.data())
def test_fu5_hidden_rows_give_no_nan(fusion, backbone, count, data):
    model, processor = tiny(fusion, backbone, count)
    inputs = opened(processor, data.draw(batches(count)))
    model.zero_grad()
    found = torch.cat(results(model, inputs, hidden(data, routed(model, inputs))))
    assert torch.isfinite(found).all()
    found.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


@every_cell
@examples
@given(data=st.data())
@torch.no_grad()
def test_fu6_the_order_of_the_inputs(fusion, backbone, count, data):
    model, processor = tiny(fusion, backbone, count)
    again, reader = tiny(fusion, backbone, count, turned=True)
    again.load_state_dict(model.state_dict())
    rows = data.draw(batches(count))
    if model.fusion.order_free or count == 1:
        same(results(model, opened(processor, rows)), results(again, opened(reader, rows)))


@every_cell
@examples
@given(data=st.data())
@torch.no_grad()
def test_fu7_the_order_of_a_streams_tokens(fusion, backbone, count, data):
    """Ready-made features carry no positions, and none are learned for sequences of any length."""
    model, processor = tiny(fusion, backbone, count)
    inputs = opened(processor, data.draw(batches(count)))
    streams = hidden(data, routed(model, inputs))
    loose = [name for name in streams if name not in processor.placeholder_counts]
    order = {name: data.draw(st.permutations(range(streams[name].mask.shape[1]))) for name in loose}
    permuted = {n: replace(t, values=t.values[:, order[n]], mask=t.mask[:, order[n]]) if n in order else t for n, t in streams.items()}
    same(results(model, inputs, streams), results(model, inputs, permuted))


@pytest.mark.parametrize(("fusion", "backbone", "count"), [cell for cell in CELLS if cell[1] == "gpt2"])
@examples
@given(data=st.data())
@torch.no_grad()
def test_fu8_the_future_does_not_reach_the_past(fusion, backbone, count, data):
    """Each token of the answer in turn is exchanged for another."""
    model, processor = tiny(fusion, backbone, count)
    inputs = opened(processor, data.draw(batches(count)))
    streams, place = routed(model, inputs), data.draw(st.integers(1, 4))
    answer = torch.randint(5, 9, (len(inputs["input_ids"]), 4))
    ids, mask = torch.cat([inputs["input_ids"], answer], 1), torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1)
    changed = ids.clone()
    changed[:, -place] = processor.end_id
    given_all = {"attention_mask": mask, "streams": streams, "prompt_lengths": inputs["attention_mask"].sum(1)}
    before, after = (model(input_ids=i, **given_all).logits for i in (ids, changed))
    assert torch.equal(before[:, :-place], after[:, :-place])
    assert not torch.allclose(before[:, -place:], after[:, -place:])


@every_cell
def test_fu9_every_parameter_of_the_fusion_gets_a_gradient(fusion, backbone, count):
    model, processor = copy.deepcopy(tiny(fusion, backbone, count))
    with model.fusion.gates_open():
        found = torch.cat(results(model.train(), opened(processor, everything(count))))
        (found * torch.randn_like(found)).sum().backward()
    for name, parameter in (*model.fusion.named_parameters(), *model.model.connectors.named_parameters()):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-6, name


@every_cell
@torch.no_grad()
def test_fu10_bfloat16(fusion, backbone, count):
    model, processor = tiny(fusion, backbone, count)
    row = {"text": 2, **{name: (i, 3) for i, name in enumerate(INPUTS[count])}}
    inputs = opened(processor, [row])
    model = calm(model)
    exact, rough = (results(m, inputs)[0].float() for m in (model, copy.deepcopy(model).bfloat16()))
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.999


@every_cell
def test_fu11_the_cost_is_what_torch_counts(fusion, backbone, count):
    model, processor = copy.deepcopy(tiny(fusion, backbone, count))
    model.requires_grad_(False)
    inputs = opened(processor, everything(count)[:1])
    streams = {n: t.by_row() for n, t in routed(model, inputs).items()}
    found = cost(model.fusion, inputs["input_ids"].shape[1], {n: t.mask.shape[1] for n, t in streams.items()})
    assert found.parameters == sum(p.numel() for p in model.fusion.parameters())
    assert found.macs == pytest.approx(counted_macs(model, lambda: results(model, inputs, streams)), rel=0.01)


@every_cell
@examples
@given(data=st.data())
@torch.no_grad()
def test_fu12_looking_at_attention_changes_nothing(fusion, backbone, count, data):
    model, processor = tiny(fusion, backbone, count)
    inputs = opened(processor, data.draw(batches(count)))
    text = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    given_all = {**text, "streams": hidden(data, routed(model, inputs)), "prompt_lengths": text["attention_mask"].sum(1)}
    plain, traced = model.model(**given_all), model.model(**given_all, output_attentions=True)
    seen = text["attention_mask"].bool()
    torch.testing.assert_close(plain.last_hidden_state[seen], traced.last_hidden_state[seen], rtol=1e-5, atol=1e-5)
    for weights in traced.fused.trace.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@every_cell
@torch.no_grad()
def test_fu13_saved_models_are_equal(fusion, backbone, count, tmp_path):
    model, processor = tiny(fusion, backbone, count)
    inputs = opened(processor, everything(count))
    model.save_pretrained(tmp_path)
    for again in (AutoModelForMultimodalLM.from_pretrained(tmp_path), copy.deepcopy(model)):
        weights = again.state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
        same(results(model, inputs), results(again, inputs), within=1e-6)


@pytest.mark.parametrize(("fusion", "backbone", "count"), [cell for cell in CELLS if cell[1] == "gpt2"])
@examples
@given(data=st.data())
@torch.no_grad()
def test_fu15_teacher_forced_equals_token_by_token(fusion, backbone, count, data):
    model, processor = tiny(fusion, backbone, count)
    inputs = opened(processor, data.draw(batches(count)), padding_side="left")
    ids, mask, streams = inputs["input_ids"], inputs["attention_mask"], routed(model, inputs)
    answer = torch.tensor([processor.encode([WORDS[data.draw(st.integers(0, 2))]], user=True)[0][:2] for _ in ids])
    given_all = {"attention_mask": torch.cat([mask, torch.ones_like(answer)], 1), "streams": streams, "prompt_lengths": mask.sum(1)}
    whole = model(input_ids=torch.cat([ids, answer], 1), **given_all).logits[:, -3:]
    output = model(input_ids=ids, attention_mask=mask, streams=streams, use_cache=True)
    steps = [output.logits[:, -1]]
    for t in range(2):
        seen = given_all["attention_mask"][:, : ids.shape[1] + t + 1]
        past = output.past_key_values
        output = model(answer[:, t : t + 1], seen, past_key_values=past, use_cache=True, streams=streams)
        steps.append(output.logits[:, -1])
    torch.testing.assert_close(whole, torch.stack(steps, 1), rtol=1e-4, atol=1e-4)
