"""The READMEs' commands and Python run as they stand; only the demo is a tiny one, and of `make` it is seen that the targets exist."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import chiasm
from chiasm.data.scenes.export import export
from chiasm.recipe_check import check_components
from chiasm_cli.main import run
from chiasm_cli.output import settings

ROOT = Path(__file__).parent.parent
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
NOT_RUN = ("git", "cd", "source")  # getting the repository, and its environment
SPLITS = (
    "{root: few, train: train.jsonl, validation: validation.jsonl, test: test.jsonl, splits: {things: things.jsonl, words: words.jsonl}}"
)
TINY = [
    f"data={SPLITS}",
    *(f"stages.{stage}.{key}" for stage in ("look", "listen", "ask") for key in ("steps=1", "batch_size=4")),
]


def blocks(language: str, name: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXTS[name], flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a reader stands: beside a tiny run at runs/demo, trained by the demo recipe on a few exported scenes."""
    here, before, handler = tmp_path_factory.mktemp("reader"), Path.cwd(), signal.getsignal(signal.SIGTERM)
    os.chdir(here)
    export("few", scenes_per_split=4, splits=("train", "validation", "test", "test_new_pairs", "things", "words"))
    assert run(["demo", *TINY]) == 0
    yield here
    os.chdir(before)
    signal.signal(signal.SIGTERM, handler)
    settings.update(json=False, debug=False)


def test_both_languages_have_the_same_blocks():
    for language in ("bash", "python"):
        assert blocks(language) == blocks(language, "README.zh.md")
    recipes = [yaml.safe_load(block) for name in TEXTS for block in blocks("yaml", name)]
    assert len(recipes) == 2 and recipes[0] == recipes[1]


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    asked = [command[1] for command in commands() if command[0] == "make"]
    assert asked == ["demo", "test"] and set(asked) <= set(targets)


def test_the_recipe_is_right(tmp_path):
    (tmp_path / "recipe.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    for change in ([], ["stages.ask.epochs=8"], ["fusion.type=late"]):
        check_components(chiasm.load_recipe(tmp_path / "recipe.yaml", change))


def test_the_tree_is_that_of_the_repository():
    tree = blocks("text")[-1]
    inside = [ROOT, ROOT / "tests", ROOT / "src" / "chiasm", ROOT / "src" / "chiasm" / "data"]
    known = {path.name for folder in inside for path in folder.iterdir()}
    named = [*re.findall(r"(?<![\w/])([a-z_]+)/(?=\s)", tree), *re.findall(r"[a-z_]+\.py", tree)]
    assert len(named) > 25 and set(named) <= known
    source = {path.stem if path.suffix else path.name + "/" for path in inside[2].iterdir() if not path.name.startswith("_")}
    assert {name for name in source if name not in tree and not name.startswith("recipe_")} == set()


@pytest.mark.timeout(180)
def test_every_command_runs(folder, capsys):
    ran = 0
    for command in commands():
        if command[0] in (*NOT_RUN, "make"):
            continue
        assert command[0] == "chiasm", command
        arguments, target = (command[1:-2], command[-1]) if ">" in command else (command[1:], None)
        capsys.readouterr()
        code = run(arguments)
        shown = capsys.readouterr()
        assert code == 0, (command, shown.err[-500:])
        if target is not None:
            Path(target).write_text(shown.out, encoding="utf-8")
        ran += 1
    assert ran >= 12
    made = ["answers.jsonl", "predictions.jsonl", "runs/mine/report.html", "runs/demo/report.html"]
    assert [file for file in made if not (folder / file).stat().st_size] == []


@pytest.mark.timeout(120)
def test_python_runs(folder, capsys):
    if not (folder / "scenes").exists():
        assert run(["data", "export", "scenes", "scenes", "--scenes", "20"]) == 0
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_the_run_folder_holds_what_the_table_says(folder):
    table = TEXTS["README.md"].split("## What a run folder holds")[1].split("##")[0]
    named = {name for cell in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name in re.findall(r"`([\w./]+)`", cell)}
    made = {path.name + ("/" if path.is_dir() else "") for path in (folder / "runs" / "demo").iterdir()}
    assert named == made - {"lock"}
