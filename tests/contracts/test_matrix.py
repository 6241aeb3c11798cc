"""Every encoder with every fusion on every kind of backbone: what can be done is trained for a step, predicted, saved and loaded to the
bit; what cannot is refused with its reason."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import BACKBONES, LOG_MEL, NEITHER_DROPS, VIT, WORDS, film, picture, sound, vectors

from chiasm.assemble import build
from chiasm.components import find, names
from chiasm.data.collate import Collator
from chiasm.data.sources.base import Source
from chiasm.data.split import Split
from chiasm.recipe import load_recipe
from chiasm.training.branch_losses import named
from chiasm.training.precision import Precision
from chiasm.training.stages import parameter_groups
from chiasm.training.step import Stepper
from chiasm.types import RecipeError, Sample

RESNET = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "grid": 2}
# kind of encoder -> (inputs, encoders)
ENCODERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": ({"image": {"modality": "image", "size": 16}}, {"image": {**VIT, **NEITHER_DROPS}}),
    "resnet": ({"image": {"modality": "image", "size": 32}}, {"image": RESNET}),
    "log-mel and a video": (
        {"audio": {"modality": "audio", "sampling_rate": 8000, "seconds": 0.1}, "video": {"modality": "video", "size": 16, "frames": 2}},
        {"audio": LOG_MEL, "video": {**VIT, **NEITHER_DROPS, "grid": 1}},
    ),
    "features and a table": (
        {"a": {"modality": "features"}, "table": {"modality": "table", "numbers": ["age"], "categories": ["sex"]}},
        {"features": {"tokens": 2}},
    ),
}
FUSIONS: dict[str, dict[str, Any]] = {
    **{name: {"type": name} for name in names("fusion")},
    "hybrid": {"type": "hybrid", "parts": [{"type": "gated_cross_attention", "every": 2}, {"type": "late", "combine": "decisions"}]},
}
KINDS = {"gpt2": "causal", "bert": "bidirectional", "latent": "latent", "t5": "encoder_decoder"}  # a backbone of each kind
TASKS: dict[str, dict[str, Any]] = {
    "answer": {"type": "generate", "prompt": "{question} answer :", "target": "{answer}", "generation": {"max_new_tokens": 3}},
    "caption": {
        "type": "generate",
        "prompt": "",
        "target": "{caption}",
        "metrics": ["bleu", "token_f1"],
        "generation": {"num_beams": 2, "max_new_tokens": 4},
    },
    "choose": {"type": "classify", "target": "answer", "dropout": 0.0},
    "tag": {"type": "classify", "target": "tags", "multi_label": True, "dropout": 0.0},
    "measure": {"type": "regress", "target": "height", "dropout": 0.0},
    "align": {"type": "contrast", "width": 8},  # between the first input and the caption
    "match": {"type": "match", "dropout": 0.0},  # the same two
    "mask": {"type": "mask", "text": "{caption}"},
}
# (encoder, fusion, kind of backbone), each with all tasks. In the quick ones every pair of these three is met at least once.
CELLS = [
    pytest.param(encoder, fusion, kind, marks=() if k == (e + f) % len(KINDS) else pytest.mark.slow)
    for e, encoder in enumerate(ENCODERS)
    for f, fusion in enumerate(FUSIONS)
    for k, kind in enumerate(KINDS)
]


class Rows(Source):
    """Six rows with every kind of input and every target."""

    columns = ("image", "audio", "video", "a", "age", "sex", "question", "answer", "caption", "tags", "height")

    def __len__(self) -> int:
        return 6

    def read(self, index: int) -> Sample:
        parts = {
            "image": picture(index),
            "audio": sound(index),
            "video": film(index),
            "a": vectors(index, 1 + index % 3),
            "age": 20.0 + index,
            "sex": "fm"[index % 2],
            "question": WORDS[index % 3],
            "caption": WORDS[index % 3],
            "answer": ["yes", "no"][index % 2],
            "tags": ["red;big", "big", "red"][index % 3],
            "height": 1.5 * index,
        }
        return Sample(f"row{index}", parts)

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"row{index}", "rows", index


def recipe_of(encoder: str, fusion: str, kind: str, tasks: list[str]) -> dict[str, Any]:
    """The cell as a recipe. Latents get no question, since they read no text."""
    inputs, encoders = ENCODERS[encoder]
    first = next(iter(inputs))
    specs = {name: {**TASKS[name], **({"between": [first, "caption"]} if name in ("align", "match") else {})} for name in tasks}
    if kind == "latent":
        specs = {name: {k: v for k, v in spec.items() if k != "prompt"} for name, spec in specs.items()}
    return {
        "inputs": inputs if kind == "latent" else {**inputs, "question": "text"},
        "encoders": encoders,
        "backbone": BACKBONES[kind],
        "fusion": FUSIONS[fusion],
        "tasks": specs,
    }


def reason(fusion: str, kind: str, task: str) -> str | None:
    """Why this cell is refused; None where it is valid."""
    backbone = find("backbone", KINDS[kind])
    if TASKS[task]["type"] == "generate" and not backbone.generates:
        return f"tasks.{task}: a {KINDS[kind]} backbone cannot write text"
    if TASKS[task]["type"] in ("contrast", "match", "mask") and not backbone.reads_text:
        return f"tasks.{task}: a latent backbone reads no text, such as 'caption'"
    if task == "mask" and kind != "bert":
        return f"tasks.mask: a {KINDS[kind]} backbone writes words and cannot fill them in; take type: generate"
    if task == "align":
        return None
    return f"fusion.type: none never brings .* tasks.{task} reads it" if fusion == "none" else None


def made(recipe: dict[str, Any]) -> tuple[Any, Any]:
    return build(load_recipe(recipe), [Rows().read(i) for i in range(6)], WORDS)


def collated(model: Any, processor: Any) -> Any:
    """All rows as one step's batches, by the library's own split and collator."""
    text = find("modality", "text")
    texts = {name: text(text.Options()) for name, spec in model.config.inputs.items() if spec["modality"] == "text"}
    split = Split(Rows(), processor.modalities, text_inputs=texts)
    step = Collator(list(model.tasks.values()), processor)(split.open_rows(range(6)))
    assert not step.bad and [batch.task for batch in step.batches] == list(model.tasks)
    return step


@torch.no_grad()
def predicted(model: Any, processor: Any) -> list[Any]:
    step = collated(model.eval(), processor)
    streams = model.encode(step.pool)
    return [model.tasks[batch.task].predict(model, batch, streams) for batch in step.batches]


def test_the_matrix_has_every_component():
    assert set(FUSIONS) == set(names("fusion"))
    assert set(KINDS.values()) == set(names("backbone")) - {"vision_language"}  # made of a checkpoint: tests/vision_language
    assert {spec["type"] for spec in TASKS.values()} == set(names("task"))
    tried = {spec["modality"] for inputs, _ in ENCODERS.values() for spec in inputs.values()}
    assert tried == set(names("encoder")) - {"tokens"}  # a text with an encoder: tests/end_to_end/test_text_stream.py


def test_quick_cells_meet_every_pair():
    """An encoder and a fusion, an encoder and a backbone, a fusion and a backbone."""
    quick = [cell.values for cell in CELLS if not cell.marks]
    kinds = (list(ENCODERS), list(FUSIONS), list(KINDS))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert {(cell[a], cell[b]) for cell in quick} == set(itertools.product(kinds[a], kinds[b]))


@pytest.mark.parametrize(("encoder", "fusion", "kind"), CELLS)
def test_a_cell_works_or_says_why_not(encoder, fusion, kind, tmp_path):
    refused = {task: why for task in TASKS if (why := reason(fusion, kind, task))}
    for task, why in refused.items():
        with pytest.raises(RecipeError, match=why) as found:
            made(recipe_of(encoder, fusion, kind, [task]))
        assert "\n" not in str(found.value)
    valid = [task for task in TASKS if task not in refused]
    if not valid:
        return
    model, processor = made(recipe_of(encoder, fusion, kind, valid))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(model.train(), weight_decay=0.01), 1e-3)
    stepper = Stepper(model, model.tasks, dict.fromkeys(valid, 1.0), optimizer, precision=Precision("fp32", "cpu", ""), seed=0, clip=1.0)
    result = stepper([collated(model, processor)], step=0, learning_rate=1e-3)
    branches = {named(task) for task in valid if model.tasks[task].view == "fused"} if model.fusion.branch_losses else set()
    assert result.skipped is None and set(result.losses) == {*valid, *branches} and all(map(math.isfinite, result.losses.values()))
    after = model.state_dict()
    for part in ("connectors", "language_model", *(f"heads.{name}" for name in model.heads)):
        assert any(part in name and not torch.equal(value, after[name]) for name, value in before.items()), part

    said = predicted(model, processor)
    assert all([p.id for p in rows if p.id == p.row] == [f"row{i}" for i in range(6)] for rows in said)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, again.processor = AutoModelForMultimodalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    for parameter in again.parameters():
        parameter.data = parameter.data.clone()  # in memory of torch's own alignment, so that sums round alike
    assert predicted(again, again.processor) == said
