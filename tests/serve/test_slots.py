"""Texts that are written side by side are those that are written alone, and those that `evaluate` gets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

sys.path.insert(0, str(Path(__file__).parent))
from tiny_engine import Desk, parts, tiny_run
from tiny_models import STRATEGIES

from chiasm.serve.text import held, stopped_at
from chiasm.serve.work import Failed

QUICK = [("early", "llama"), ("gated_cross_attention", "gpt2"), ("own weights", "gpt2"), ("hybrid late", "gpt2"), ("perceiver", "gpt2")]
ALL = [*STRATEGIES, "hybrid", "hybrid late", "late decisions", "own weights", "see last"]
CELLS = [(fusion, "gpt2") for fusion in ALL if fusion != "none"] + [("gated_cross_attention", "qwen3"), ("own weights", "bert decoder")]
CELLS = [*QUICK, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS if cell not in QUICK)]


def worst(one: torch.Tensor, other: torch.Tensor) -> float:
    both = torch.stack([one, other])
    return float((both[0] - both[1])[both.isfinite().all(0)].abs().max())


@pytest.mark.parametrize(("fusion", "backbone"), CELLS)
def test_a_text_is_what_it_is_alone(fusion: str, backbone: str):
    """In a batch of 8, and among neighbours that came before and go on after it; media absent here and there."""
    run = tiny_run(fusion, backbone)
    given = [parts(i) for i in range(8)]
    expected = [p.output for p in run.predict(given, task="answer")]
    lengths = [6, 2, 5, 1, 6, 3, 4, 6]
    alone = [Desk(run, 1).finish([Desk(run).row(g, max_new_tokens=6)])[0] for g in given]
    assert [found.prediction.output for found, _ in alone] == expected
    for at_once, size, limits in ((8, 8, [6] * 8), (1, 3, lengths), (2, 4, lengths)):
        desk = Desk(run, size)
        rows = [desk.row(g, max_new_tokens=limit) for g, limit in zip(given, limits, strict=True)]
        for (found, logits), (lone, reference), limit in zip(desk.finish(rows, at_once=at_once), alone, limits, strict=True):
            assert worst(logits, reference[: len(logits)]) <= 1e-5
            assert found.completion_tokens == min(limit, lone.completion_tokens)
            assert lone.prediction.output.startswith(found.prediction.output)
            assert found.prompt_tokens == lone.prompt_tokens


COMPILED = [("hybrid", "eager"), *(pytest.param(f, "eager", marks=pytest.mark.slow) for f in ALL if f not in ("none", "hybrid"))]
COMPILED += [pytest.param(f, "inductor", marks=pytest.mark.slow) for f in ("early", "gated_cross_attention", "hybrid", "own weights")]


@pytest.mark.parametrize(("fusion", "compiler"), COMPILED)
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_a_compiled_step_writes_the_same(fusion: str, compiler: str):
    """In one graph, which serves all sizes that come: nothing is compiled after the warm-up."""
    run = tiny_run(fusion)
    given, lengths = [parts(i) for i in range(12)], [6, 2, 5, 1, 20, 3, 4, 6, 2, 9, 7, 3]
    alone = [Desk(run, 1).finish([Desk(run).row(g, max_new_tokens=n)])[0] for g, n in zip(given, lengths, strict=True)]
    torch._dynamo.reset()
    counters.clear()
    desk = Desk(run, 4, compiler=compiler)
    desk.engine.slots = desk.slots
    desk.engine._warm_up()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 2 and not counters["graph_break"]
    assert desk.slots.tokens == desk.engine.counters.forwards == 0
    rows = [desk.row(g, max_new_tokens=n) for g, n in zip(given, lengths, strict=True)]
    for (found, logits), (lone, reference) in zip(desk.finish(rows, at_once=2), alone, strict=True):
        assert found.prediction.output == lone.prediction.output and worst(logits, reference) <= 1e-5
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_hundred_texts_are_equal():
    run = tiny_run("gated_cross_attention")
    given = [parts(i) for i in range(100)]
    desk = Desk(run, 8)
    found = desk.finish([desk.row(g, max_new_tokens=1 + i % 4) for i, g in enumerate(given)], at_once=3)
    alone = [Desk(run, 1).finish([desk.row(g, max_new_tokens=1 + i % 4)])[0] for i, g in enumerate(given)]
    assert sum(a.prediction.output == b.prediction.output for (a, _), (b, _) in zip(found, alone, strict=True)) == 100
    assert max(worst(a, b) for (_, a), (_, b) in zip(found, alone, strict=True)) <= 1e-5


def test_logits_are_those_of_generate():
    run = tiny_run("co_attention")
    desk = Desk(run)
    row = desk.row(parts(2))
    ((_, logits),) = desk.finish([row])
    step = run.collate(row.task, [row.opened])
    reference = row.task.first_written(run.model, step.batches[0], run.model.encode(step.pool))
    reference[:, run.model.generation_config.suppress_tokens or []] = -torch.inf
    assert worst(logits[0], reference[0]) <= 1e-5


def test_long_texts_move_the_window(monkeypatch: pytest.MonkeyPatch):
    """A buffer that is full is moved or made larger, and nobody's text changes."""
    monkeypatch.setattr("chiasm.serve.memory.COLUMNS", 8)
    run = tiny_run("early")
    desk = Desk(run, 3)
    limits = [40, 3, 30, 20, 9, 33, 2]
    found = desk.finish([desk.row(parts(i), max_new_tokens=n) for i, n in enumerate(limits)], at_once=1)
    for i, (n, (text, logits)) in enumerate(zip(limits, found, strict=True)):
        ((lone, reference),) = Desk(run, 1).finish([desk.row(parts(i), max_new_tokens=n)])
        assert text.prediction.output == lone.prediction.output and worst(logits, reference) <= 1e-5


def test_samples_are_a_requests_own():
    """A seed gives the same text alone and among others; without one, and hot, texts differ."""
    run = tiny_run("cross_attention")
    settings = {"temperature": 1.5, "top_p": 0.95, "top_k": 12, "max_new_tokens": 8}
    alone = [Desk(run, 1).finish([Desk(run).row(parts(2), seed=seed, **settings)])[0][0] for seed in range(6)]
    desk = Desk(run)
    together = desk.finish([desk.row(parts(2), seed=seed, **settings) for seed in range(6)] + [desk.row(parts(3), max_new_tokens=4)])
    texts = [found.prediction.output for found in alone]
    assert texts == [found.prediction.output for found, _ in together[:6]] and len(set(texts)) > 1
    free = desk.finish([desk.row(parts(2), temperature=3.0, max_new_tokens=8) for _ in range(4)])
    assert len({found.prediction.output for found, _ in free}) > 1


def test_sampling_draws_only_what_it_may():
    run = tiny_run("early")
    desk = Desk(run)
    greedy = desk.finish([desk.row(parts(0))])[0][0].prediction.output
    for settings in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert desk.finish([desk.row(parts(0), **{"temperature": 1.0, **settings})])[0][0].prediction.output == greedy


def test_stop_strings_and_lengths():
    run = tiny_run("early")
    desk = Desk(run)
    ((whole, _),) = desk.finish([desk.row(parts(0), max_new_tokens=12)])
    words = whole.prediction.output.split()
    stop = next(word for word in words[1:] if word != words[0])
    ((cut, _),) = desk.finish([desk.row(parts(0), max_new_tokens=12, stop=("never", stop))])
    assert cut.prediction.output == whole.prediction.output[: whole.prediction.output.index(stop)].rstrip()
    assert cut.finish_reason == "stop" and cut.completion_tokens < whole.completion_tokens
    ((short, _),) = desk.finish([desk.row(parts(0), max_new_tokens=2)])
    assert short.completion_tokens == 2 and short.finish_reason == "length"


def test_what_may_be_shown():
    assert stopped_at("one two one", ("two", "one")) == 0 and stopped_at("one", ("x",)) is None
    assert held("a user:", ("user: b",)) == 5 and held("ab", ("cd",)) == 0 and held("ab\N{REPLACEMENT CHARACTER}", ()) == 1


def test_pieces_make_the_text():
    run = tiny_run("early")
    desk = Desk(run)
    rows = [desk.row(parts(i), max_new_tokens=10) for i in range(4)]
    for row in rows[:3]:
        row.ticket.listen()
    found = desk.finish(rows)
    for row, (result, _) in zip(rows, found, strict=True):
        if row.ticket.listened:
            assert "".join(row.ticket._pieces) == result.prediction.output and len(row.ticket._pieces) > 1
        else:
            assert row.ticket._pieces == []


def test_one_that_nobody_waits_for_goes():
    """Within a step, and the others do not notice."""
    run = tiny_run("hybrid")
    desk = Desk(run)
    rows = [desk.row(parts(i), max_new_tokens=12) for i in range(4)]
    desk.slots.admit(rows)
    rows[1].ticket.cancel()
    desk.slots.step()
    assert len(desk.slots.rows) == 3 and rows[1] not in desk.slots.rows and desk.slots.free == 5
    while desk.slots.rows:
        desk.slots.step()
    alone = Desk(run, 1)
    for row, seed in zip(rows, range(4), strict=True):
        if row is not rows[1]:
            ((expected, _),) = alone.finish([alone.row(parts(seed), max_new_tokens=12)])
            assert row.ticket.wait(0).prediction.output == expected.prediction.output
    assert desk.slots.bank.structure is None and desk.slots.window.lengths == []


@pytest.mark.parametrize("when", ["prompt", "step"])
def test_nan_is_one_rows_own(monkeypatch: pytest.MonkeyPatch, when: str):
    """NaN in one row's logits, or in all it remembers: it fails; its neighbours, and who comes after, write what they write alone."""
    run = tiny_run("early")
    desk = Desk(run, 4)
    rows = [desk.row(parts(i), max_new_tokens=8) for i in range(3)]
    if when == "prompt":
        monkeypatch.setattr(desk.slots, "_read", poisoned(desk.slots._read))
        desk.slots.admit(rows)
        monkeypatch.undo()
    else:
        desk.slots.admit(rows)
        for layer in desk.slots.window.layers:
            layer.all_keys[1] = layer.all_values[1] = torch.nan
    desk.slots.step()
    with pytest.raises(Failed, match="NaN"):
        rows[1].ticket.wait(0)
    late = [desk.row(parts(i), max_new_tokens=8) for i in (3, 4)]
    found = [row.ticket for row in (rows[0], rows[2])]
    desk.finish(late)
    for ticket, seed in zip([*found, *(row.ticket for row in late)], (0, 2, 3, 4), strict=True):
        ((expected, _),) = Desk(run, 1).finish([desk.row(parts(seed), max_new_tokens=8)])
        assert ticket.wait(0).prediction.output == expected.prediction.output


def poisoned(read):
    def reading(rows):
        logits, *rest = read(rows)
        logits[1] = torch.nan
        return logits, *rest

    return reading


def test_a_step_that_fails_tells_its_rows(monkeypatch: pytest.MonkeyPatch):
    run = tiny_run("early")
    desk = Desk(run)
    rows = [desk.row(parts(i)) for i in range(2)]
    desk.slots.admit(rows)
    monkeypatch.setattr(desk.slots, "_next_logits", broken)
    desk.slots.step()
    for row in rows:
        with pytest.raises(Failed, match="RuntimeError: no memory"):
            row.ticket.wait(0)
    monkeypatch.undo()
    ((found, _),) = desk.finish([desk.row(parts(0))])
    assert found.prediction.output == run.predict([parts(0)], task="answer")[0].output


def broken(*_):
    raise RuntimeError("no memory")


@pytest.mark.parametrize("backbone", ["t5", "bart"])
def test_an_encoder_decoder_goes_by_generate(backbone: str):
    run = tiny_run("cross_attention", backbone, tasks="answer")
    assert not Desk(run).slots.able


def test_beams_go_by_generate():
    run = tiny_run("early")
    desk = Desk(run)
    assert desk.row(parts(0)).slotted
    task = run.tasks["answer"]
    before = task.options
    try:
        task.options = before.model_copy(update={"generation": {"num_beams": 2}})
        assert not desk.row(parts(0)).slotted
    finally:
        task.options = before
