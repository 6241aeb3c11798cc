"""CONTRIBUTING.md's examples work: each is written where its heading says, named in a tiny recipe, trained and scored."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import chiasm
from chiasm import components
from chiasm.media.write import write_picture

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### .*?: `([\w/]+\.py)`$.*?^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE))
FOLDERS = ["encoders", "connectors", "fusion", "data/sources", "metrics"]
GPT2 = {"arch": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "tokenizer": "words"}
VIT = {"arch": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
# example -> what of the tiny recipe names it
NAMED = {
    "squares": {"encoders": {"image": {"type": "squares"}}},
    "normed": {"encoders": {"image": {**VIT, "connector": "normed"}}},
    "add_mean": {"fusion": "add_mean"},
    "median": {"tasks": {"size": {"type": "my_package.median:Median", "target": "size"}}},
    "tagged_lines": {
        "inputs": {"text": "text"},
        "encoders": {},
        "tasks": {"label": {"type": "classify", "target": "label"}},
        "data": {"train": "rows.tagged", "validation": "rows.tagged"},
    },
    "first_word": {"tasks": {"answer": {"type": "generate", "target": "{answer}", "metrics": ["exact_match", "first_word"]}}},
}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every example as a file, in folders that stand beside the package's own."""
    for file, code in EXAMPLES.items():
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(code, encoding="utf-8")
    for folder in FOLDERS:
        package = importlib.import_module(f"chiasm.{folder.replace('/', '.')}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "src" / "chiasm" / folder)])
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.rpartition(".")[2] in NAMED:
            del sys.modules[name]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sixteen pictures, each with a text, an answer and a number; and a file that only the new source reads."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(16):
        write_picture(tmp_path / f"{i}.png", generator.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        rows.append({"image": f"{i}.png", "text": f"thing {i % 3}", "answer": ["red cat", "blue dog"][i % 2], "size": float(i)})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "rows.tagged").write_text("".join(f"{row['answer']}\t{row['text']}\n" for row in rows), encoding="utf-8")
    return tmp_path


def recipe_with(changes: dict, folder: Path) -> dict:
    return {
        "inputs": {"image": {"modality": "image", "size": 16}, "text": "text"},
        "encoders": {"image": VIT},
        "backbone": GPT2,
        "fusion": "cross_attention",
        "tasks": {"answer": {"type": "generate", "target": "{answer}"}},
        "stages": [{"steps": 2, "batch_size": 4}],
        "train": {"precision": "fp32"},
        **changes,
        "data": {"root": str(folder), **changes.get("data", {"train": "rows.jsonl", "validation": "rows.jsonl"})},
    }


@pytest.mark.timeout(600)  # a process of its own, with all of a strategy's contract tests
def test_a_whole_strategy_keeps_the_contracts(tmp_path):
    """The last example is one file of at most 60 lines; the command under it puts it through every contract test."""
    section = TEXT.split("## A fusion strategy in one file")[1]
    code, command = (
        re.search(rf"^```{language}\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)[1] for language in ("python", "bash")
    )
    assert len(code.splitlines()) <= 60
    setting, *words = shlex.split(command)
    variable, name = setting.split("=")
    file = tmp_path / f"{name.partition(':')[0].replace('.', '/')}.py"
    file.parent.mkdir()
    file.write_text(code, encoding="utf-8")
    assert name in code and f"`{file.relative_to(tmp_path)}`" in section
    assert words[0] == ".venv/bin/python"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, *words[1:], "-v", "-p", "no:cacheprovider"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": path, variable: name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]
    passed = re.findall(rf"::(test_\w+)\[(?:[\w-]+-)?{re.escape(name)}-([\w ]+)\] PASSED", done.stdout)
    assert {backbone for _, backbone in passed} == {"gpt2", "qwen3", "bert", "latent", "t5", "t5 encoder"}
    assert {("test_a_declared_input_changes_what_generate_scores", side) for side in ("t5", "t5 encoder")} <= set(passed)
    contracts = {f"fu{number}" for number in (1, 2, 3, 4, 5, 8, 9, 10, 12, 13, 15)}
    assert contracts <= {test.split("_")[1] for test, _ in passed}


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE)) <= set(targets)


def test_there_is_one_example_for_each():
    assert [Path(file).stem for file in EXAMPLES] == list(NAMED)


@pytest.mark.parametrize("file", EXAMPLES)
def test_short(file):
    assert len([line for line in EXAMPLES[file].splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("file", EXAMPLES)
def test_it_trains_and_is_scored(file, examples, table):
    name = Path(file).stem
    recipe = recipe_with(NAMED[name], table)
    run = chiasm.train(recipe, output=table / "run", progress=False)
    scores = run.metrics["validation"]
    assert any(key.startswith(f"{next(iter(recipe['tasks']))}.") for key in scores)
    if name == "first_word":
        assert "answer.first_word" in scores
    if name != "median":
        kind = next(kind for kind, package in components.FOLDERS.items() if file.startswith(f"src/{package.replace('.', '/')}/"))
        assert name in components.names(kind)
