"""train.balance: heads for each input alone, and shorter steps for the input that is ahead."""

import copy
import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForMultimodalLM

from chiasm.data.collate import Collator
from chiasm.recipe import load_recipe
from chiasm.recipe_check import check_components
from chiasm.recipe_errors import RecipeProblems
from chiasm.training import checkpoint
from chiasm.training.balance import Alone, coefficient, sums_of
from chiasm.training.log import read_log
from chiasm.training.loop import train
from chiasm.training.materials import assemble
from chiasm.training.precision import Precision
from chiasm.training.step import Stepper
from chiasm.types import RecipeError

FP32 = Precision("fp32", "cpu", "")
BERT = {"kind": "bidirectional", "arch": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "tokenizer": "words"}
BERT |= {"intermediate_size": 16, "max_position_embeddings": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def data(tmp_path):
    """48 rows; `left` tells the label plainly, `right` faintly; some lack one of them, some the words, some the size."""
    draw, rows = np.random.default_rng(0), []
    for number in range(48):
        sign = 1.0 if number % 2 else -1.0
        row = {"left": [sign, float(draw.normal())], "right": [0.2 * sign + float(draw.normal())], "note": ["good", "bad"][number % 3 == 0]}
        row |= {"label": "up" if sign > 0 else "down", "size": sign * (1 + number % 3), "tags": [["a"], ["a", "b"], ["b"]][number % 3]}
        for name, every in (("left", 5), ("right", 7), ("note", 11), ("size", 9)):
            if number % every == 0:
                del row[name]
        rows.append(row)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def recipe(data, *, balance=None, dropout=0.0, tasks=None, fusion="cross_attention", connector="mlp", **train_keys):
    label = {"type": "classify", "target": "label", "prompt": "{note}", "dropout": dropout, "metrics": ["accuracy"]}
    size = {
        "type": "regress",
        "target": "size",
        "dropout": dropout,
        "prompt": "the size",
        "weight": 0.5,
        "metrics": ["mean_absolute_error"],
    }
    return load_recipe(
        {
            "inputs": {"left": "features", "right": "features", "note": "text"},
            "encoders": {"features": {"connector": connector}},
            "backbone": BERT,
            "fusion": fusion,
            "tasks": tasks or {"label": label, "size": size},
            "data": {"train": str(data / "train.jsonl"), "validation": str(data / "validation.jsonl")},
            "stages": [{"epochs": 2, "batch_size": 8, "accumulate": 2, "learning_rate": 0.01}],
            "train": {"precision": "fp32", "device": "cpu", "save_every": 1, "keep_last": 99, **train_keys}
            | ({} if balance is None else {"balance": balance}),
        }
    )


def ready(data, **keys):
    """(recipe, materials, all rows as one micro-batch, streams) of a balanced model in eval mode."""
    made = recipe(data, **{"balance": {}, **keys})
    materials = assemble(made)
    materials.model.eval()
    split = materials.split("train")
    micro = Collator(list(materials.tasks.values()), materials.processor)(split.open_rows(range(len(split))))
    return made, materials, micro, materials.model.encode(micro.pool)


def stepper_of(made, materials, optimizer=None, **keys):
    optimizer = optimizer or torch.optim.SGD(materials.model.parameters(), lr=0.1)
    weights = {name: spec.weight for name, spec in made.tasks.items()}
    return Stepper(
        materials.model,
        materials.tasks,
        weights,
        optimizer,
        precision=FP32,
        seed=0,
        clip=None,
        **{"balance": materials.model.balance, **keys},
    )


def losses(folder):
    return [line["loss"].hex() for line in read_log(folder / "log.jsonl") if "loss" in line]


# ---- a whole run


def test_a_resumed_run_is_the_run(data, tmp_path):
    """Mid-epoch and at the epoch's edge: bit for bit, heads, modulation, dropout and all."""
    made = recipe(data, balance={"modulate": True, "noise": True}, dropout=0.2, modality_dropout=0.3, best="validation label.accuracy")
    whole = tmp_path / "whole"
    train(made, output=whole, progress=False)
    steps = max(map(checkpoint.step_of, (whole / "checkpoints").iterdir()))
    for at in (1, steps // 2):
        cut = tmp_path / f"cut{at}"
        shutil.copytree(whole, cut)
        for path in (cut / "checkpoints").iterdir():
            if checkpoint.step_of(path) > at:
                (path / "MANIFEST.json").unlink()
        train(made, output=cut, resume=True, progress=False)
        assert losses(cut) == losses(whole) and len(losses(whole)) == steps == 6
        digests = [hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest() for folder in (whole, cut)]
        assert digests[0] == digests[1]


def test_the_heads_are_logged_and_checkpointed_but_not_kept(data, tmp_path):
    train(recipe(data, balance={"weight": 0.3, "modulate": True}), output=tmp_path / "run", progress=False)
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    names = {"label", "label[left alone]", "label[right alone]", "label[text alone]", "size", "size[left alone]", "size[right alone]"}
    for line in steps:
        assert set(line["losses"]) == names  # the prompt of size has no text of the row's
        total = sum(
            value * {"label": 1.0, "size": 0.5}[n[:5].strip("[")] * (0.3 if "alone" in n else 1) for n, value in line["losses"].items()
        )
        assert line["loss"] == pytest.approx(total)
        assert all(0 <= k < 1 for k in line.get("shortened", {}).values())
    assert any("shortened" in line for line in steps)
    saved = checkpoint.load_file(str(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "model.safetensors"))
    assert sum(name.startswith("balance.heads") for name in saved) == 2 * 5
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "run" / "model")
    assert not [name for name in model.state_dict() if "balance" in name] and model.balance is None


def test_it_changes_no_prediction(data):
    _, materials, micro, streams = ready(data)
    batch = micro.batches[0]
    with_heads = materials.tasks["label"].outputs(materials.model, batch, streams)
    materials.model.balance = None
    assert torch.equal(with_heads, materials.tasks["label"].outputs(materials.model, batch, streams))
    assert assemble(recipe(data)).model.balance is None


# ---- the heads


def test_every_head_sees_the_pooled_tokens_of_its_input_in_the_rows_that_have_it(data):
    _, materials, micro, streams = ready(data)
    model = materials.model
    for batch in micro.batches:
        task = materials.tasks[batch.task]
        for one in model.balance.losses(model, task, batch, streams):
            head = model.balance.heads[batch.task][one.input]
            if one.input == "text":
                words = model.get_input_embeddings()(batch.inputs["input_ids"])
                each = [row[mask].mean(0) for row, mask in zip(words, batch.inputs["attention_mask"], strict=True)]
                here = [bool(sample.parts.get("note")) for sample in batch.samples]
            else:
                index = batch.inputs[f"{one.input}_index"][:, 0].tolist()
                each = [streams[one.input].values[unit, 0] for unit in index]  # one vector each
                here = [unit >= 0 for unit in index]
            found = head(torch.stack(each))
            if batch.task == "label":
                picked = found.log_softmax(-1).gather(1, batch.targets["labels"].unsqueeze(1)).squeeze(1)
                total, likely = -picked[here].sum(), picked[here].exp().sum()
            else:
                here = [h and not math.isnan(v) for h, v in zip(here, batch.targets["values"].tolist(), strict=True)]
                off = (found.squeeze(1) - batch.targets["values"])[here].square()
                total, likely = off.sum(), (-off / 2).exp().sum()
            assert int(one.rows) == sum(here) < len(here)
            torch.testing.assert_close(one.loss, total)
            torch.testing.assert_close(one.likelihood, likely)


def test_several_labels(data):
    tags = {"type": "classify", "target": "tags", "labels": ["a", "b"], "multi_label": True, "prompt": "{note}", "dropout": 0.0}
    _, materials, micro, streams = ready(data, tasks={"tags": tags})
    (batch,), model = micro.batches, materials.model
    for one in model.balance.losses(model, materials.tasks["tags"], batch, streams):
        if one.input != "text":
            index = batch.inputs[f"{one.input}_index"][:, 0]
            logits = model.balance.heads["tags"][one.input](streams[one.input].values[index[index >= 0], 0])
            hot = batch.targets["hot"][index >= 0]
            torch.testing.assert_close(one.loss, functional.binary_cross_entropy_with_logits(logits, hot, reduction="sum"))
            torch.testing.assert_close(one.likelihood, torch.where(hot > 0, logits.sigmoid(), 1 - logits.sigmoid()).mean(1).sum())


def test_a_gradient_reaches_the_connector_past_closed_gates(data):
    """Flamingo's gates begin at zero, so that the connector learns nothing from the task in the first step."""
    for balance, moves in ((None, False), ({"weight": 0.3}, True)):
        made, materials, micro, _ = ready(data, balance=balance, fusion="gated_cross_attention")
        before = {name: p.clone() for name, p in materials.model.named_parameters()}
        stepper_of(made, materials)([micro], step=0, learning_rate=0.1)
        moved = {name for name, p in materials.model.named_parameters() if not torch.equal(p, before[name])}
        assert any(name.startswith("model.connectors.left") for name in moved) == moves
        assert any(name.startswith("balance") for name in moved) == moves


@pytest.mark.parametrize("parts", [[(0, 20), (20, 48)], [(0, 1), (1, 5), (5, 48)]])
def test_accumulation_equals_the_big_batch(data, parts):
    kept = []
    for cuts in ([(0, 48)], parts):
        made, materials, _, _ = ready(data, balance={"modulate": True})
        collator, split = Collator(list(materials.tasks.values()), materials.processor), materials.split("train")
        micro = [collator(split.open_rows(range(a, b))) for a, b in cuts]
        result = stepper_of(made, materials)(micro, step=0, learning_rate=0.1)
        kept.append((result, {name: p.detach() for name, p in materials.model.named_parameters()}))
    assert kept[0][0].loss == pytest.approx(kept[1][0].loss, rel=1e-5)
    assert kept[0][0].shortened == pytest.approx(kept[1][0].shortened, rel=1e-5) and kept[0][0].shortened
    for name, value in kept[0][1].items():
        torch.testing.assert_close(kept[1][1][name], value, rtol=1e-4, atol=1e-6)


# ---- modulation


def test_the_coefficient_is_the_papers_formula():
    assert coefficient("a", {"a": 0.6, "b": 0.3}, 0.5) == pytest.approx(1 - math.tanh(0.5 * 2))
    assert coefficient("b", {"a": 0.6, "b": 0.3}, 0.5) == 1
    assert coefficient("a", {"a": 0.6, "b": 0.3, "c": 0.5}, 0.1) == pytest.approx(1 - math.tanh(0.1 * 1.5))
    assert coefficient("a", {"a": 0.6, "b": 0.0}, 0.5) == pytest.approx(0.0)


def said(**likelihoods):
    """What the heads of one batch of ten rows say, by mean likelihood; None: no row has the input."""
    zero = torch.zeros(())
    return [Alone(n, n, zero, torch.tensor((v or 0.0) * 10), torch.tensor(0 if v is None else 10)) for n, v in likelihoods.items()]


def test_only_an_input_that_is_ahead_is_held_back(data):
    balance = ready(data, balance={"modulate": True, "alpha": 0.5})[1].model.balance
    found = balance.coefficients([sums_of(said(left=0.9, right=0.5)), sums_of(said(left=0.7, right=0.3, text=None))])
    assert found == {"left": pytest.approx(1 - math.tanh(0.5 * 2)), "right": 1.0}
    assert balance.coefficients([sums_of(said(left=0.9, right=None))]) == {}
    assert ready(data)[1].model.balance.coefficients([sums_of(said(left=0.9, right=0.5))]) == {}  # modulate is off


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_step_of_its_own_parts_is_scaled_and_no_other(data, kind, monkeypatch):
    """Under SGD that is the paper's scaled gradient; AdamW would undo a scaled gradient, and its step is scaled all the same."""
    moves = {}
    for k in (1.0, 0.25):
        made, materials, micro, _ = ready(data, balance={"modulate": True})
        monkeypatch.setattr(type(materials.model.balance), "coefficients", lambda self, found, k=k: {"left": k, "right": 1.0})
        parameters = materials.model.parameters()
        optimizer = torch.optim.SGD(parameters, lr=0.1) if kind == "sgd" else torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
        before = {name: p.detach().clone() for name, p in materials.model.named_parameters()}
        result = stepper_of(made, materials, optimizer)([micro], step=0, learning_rate=0.05)
        assert result.shortened == ({"left": 0.25} if k < 1 else {})
        moves[k] = {name: p.detach() - before[name] for name, p in materials.model.named_parameters()}
    for name, whole in moves[1.0].items():
        own = name.startswith(("model.connectors.left", "model.encoders.left"))
        torch.testing.assert_close(moves[0.25][name], whole * (0.25 if own else 1.0), rtol=1e-4, atol=1e-7)
    assert any(name.startswith("model.connectors.left") and whole.abs().max() > 0 for name, whole in moves[1.0].items())


def test_noise_is_as_wide_as_the_gradient_and_only_on_the_inputs_own_parts(data):
    _, materials, _, _ = ready(data, balance={"modulate": True, "noise": True})
    model, found = materials.model, []
    for seed in (7, 7, 8):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 3
        before = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.balance.disturb(model, ["left"], seed)
        found.append({name: p.grad - before[name] for name, p in model.named_parameters()})
    own = [name for name in found[0] if name.startswith(("model.connectors.left", "model.encoders.left"))]
    assert own and not any(move.any() for name, move in found[0].items() if name not in own)
    assert all(torch.equal(found[0][name], found[1][name]) and not torch.equal(found[0][name], found[2][name]) for name in own)
    every = torch.cat([found[0][name].flatten() for name in own])
    assert len(every) > 50 and 2.2 < every.std() < 3.8


def test_without_noise_gradients_are_left_alone(data):
    _, materials, _, _ = ready(data, balance={"modulate": True})
    for parameter in materials.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    materials.model.balance.disturb(materials.model, ["left", "right"], 7)
    assert all((parameter.grad == 1).all() for parameter in materials.model.parameters())


def test_noise_alone_is_refused(data):
    with pytest.raises(RecipeProblems, match="noise: it is half of OGM-GE; write modulate: true too"):
        check_components(load_recipe(recipe(data, balance={"noise": True})))


def test_prompt_text_is_held_back_at_its_word_embeddings(data):
    _, materials, _, _ = ready(data, balance={"modulate": True})
    model = materials.model
    words = model.get_input_embeddings().weight
    other = model.model.connectors["left"].layers[0].weight
    before = words.detach().clone(), other.detach().clone()
    with model.balance.shortened(model, {"text": 0.5}), torch.no_grad():
        words.add_(1.0)
        other.add_(1.0)
    torch.testing.assert_close(words, before[0] + 0.5)
    torch.testing.assert_close(other, before[1] + 1.0)


# ---- what is refused


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ({"say": {"type": "generate", "target": "{label}", "prompt": "{note}"}}, "not with task 'say': .* a language model of its own"),
        (
            {name: {"type": "contrast", "between": [name, "note"]} for name in ("left", "right")},
            "there is no classify or regress task",
        ),
    ],
)
def test_tasks_that_an_input_cannot_do_alone_are_refused(data, tasks, says):
    with pytest.raises(RecipeProblems, match=f"train.balance: {says}"):
        check_components(recipe(data, balance={}, tasks=tasks))
    check_components(recipe(data, tasks=tasks))
    check_components(recipe(data, balance={}))


def test_a_connector_that_reads_the_prompt_is_refused(data):
    reading = {"type": "q_former", "tokens": 2, "depth": 1, "reads": "text"}
    with pytest.raises(RecipeError, match="train.balance: the connector of left reads the prompt too"):
        assemble(recipe(data, balance={}, connector=reading))


def test_a_stage_that_trains_one_part_still_trains_the_heads(data, tmp_path):
    made = recipe(data, balance={})
    stage = made.stages[0].model_copy(update={"train": ["encoders.left.connector"], "tasks": ["label"], "accumulate": 1})
    made = made.model_copy(update={"stages": [stage]})
    first = copy.deepcopy(assemble(made).model.balance.state_dict())
    train(made, output=tmp_path / "run", progress=False)
    saved = checkpoint.load_file(str(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "model.safetensors"))
    moved = {name for name, value in first.items() if not torch.equal(saved[f"balance.{name}"], value)}
    assert moved == {f"heads.label.{m}.1.{w}" for m in ("left", "right", "text") for w in ("weight", "bias")}
