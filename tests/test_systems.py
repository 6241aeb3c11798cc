"""Every system's recipe: both forms are sound, and the small one can, and (slow) learns to, use every input that it declares."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import chiasm
from chiasm.data.collate import Collator
from chiasm.recipe import load_recipe
from chiasm.recipe_check import check_components
from chiasm.training import materials
from chiasm.training.influence import check_influence
from chiasm.training.stages import apply_stage
from chiasm_cli.shelf import files, headline

SYSTEMS = [file.stem for file in files() if headline(file)["tiny"]]
LINES = 42  # of a recipe, at most


def test_there_is_a_recipe_for_every_system():
    pictures = {
        "vit_gpt2_caption",
        "clip",
        "coca",
        "blip",
        "albef",
        "visualbert",
        "vilbert",
        "lxmert",
        "meter",
        "llava",
        "flamingo",
        "kosmos",
        "vl_t5",
    }
    others = {"sentiment", "audio_caption", "audio_qa", "video_qa", "visual_dialogue", "table_text", "medical_qa", "two_tower_recommend"}
    assert set(SYSTEMS) == pictures | others | {"llm_joint", "few_label", "text_only"}


def test_every_small_form_is_found():
    assert set(SYSTEMS) == {file.stem for file in files() if "tiny" in yaml.safe_load(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_a_recipe_says_what_it_is_for(file: Path):
    about = headline(file)
    assert about["description"].endswith(".") and about["group"] != "recipes"
    assert not about["tiny"] or len(file.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("name", SYSTEMS)
def test_both_forms_are_sound(name: str):
    full, tiny = load_recipe(name), load_recipe(f"{name}:tiny")
    check_components(full)
    check_components(tiny)
    assert full.backbone.model and not full.data.builtin
    assert tiny.data.builtin and not tiny.backbone.model and not any(encoder.model for encoder in tiny.encoders.values())
    assert {task.type for task in full.tasks.values()} <= {task.type for task in tiny.tasks.values()}, "the small form is the same system"
    assert full.document.small == f"{name}:tiny"


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_declared_input_of_the_small_form_reaches_its_output(name: str, monkeypatch: pytest.MonkeyPatch):
    for number in ("LEARN_ROWS", "WORD_ROWS"):
        monkeypatch.setattr(materials, number, 2000)  # enough for every word and label, in a tenth of the time
    recipe = load_recipe(f"{name}:tiny")
    found = materials.assemble(recipe)
    for stage in recipe.stages:
        tasks = {task: found.tasks[task] for task in stage.tasks or found.tasks}
        apply_stage(found.model, recipe, stage)
        collator = Collator(list(tasks.values()), found.processor)
        weights = {task: recipe.tasks[task].weight for task in tasks}
        influence = check_influence(found.model, tasks, weights, found.split(stage.data), collator, stage=stage)
        assert not influence.notes
    assert {read for task in found.tasks.values() for read in task.reads} == set(recipe.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_small_form_learns_to_use_every_input(name: str, tmp_path: Path):
    """Every task's score is above that of the same model with any of its inputs shuffled, beyond the paired 95 % interval."""
    run = chiasm.train(f"{name}:tiny", output=tmp_path / name, progress=False)
    task_of = run.details["test"]["differences"]
    learned = run.recipe.stages[-1].tasks or list(run.model.tasks)  # what an earlier stage learned may be forgotten
    judged = [task for task in learned if any(key.startswith(f"{task}.") for key in run.metrics["test"])]
    assert judged
    for task in judged:
        kind = run.model.tasks[task]
        key = next(key for key in run.metrics["test"] if key.startswith(f"{task}."))
        metric, bracket, inside = key.partition("[")
        for read in kind.reads:
            control = f"{metric}[{inside.removesuffix(']')}, {read} shuffled]" if bracket else f"{metric}[{read} shuffled]"
            assert task_of[control]["interval"][1] < 0, f"{control}: {task_of[control]}"
