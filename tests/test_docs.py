"""The files in docs/ say what is: keys and reason codes are complete, tests and links that they name exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recipe_keys_are_up_to_date():
    written = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert written == script("write_recipe_docs").render(), "run .venv/bin/python scripts/write_recipe_docs.py"


def test_the_picture_is_drawn_by_its_script(tmp_path):
    drawing = script("draw_fusion")
    drawing.save(drawing.draw(), tmp_path / "fusion.svg")
    drawn, shown = ((folder / "fusion.svg").read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "docs"))
    labels = re.compile(r"<!-- (.*?) -->")  # matplotlib notes each text beside its outline
    assert "between" in labels.findall(drawn)
    assert labels.findall(drawn) == labels.findall(shown), "run .venv/bin/python scripts/draw_fusion.py"


def test_every_reason_code_is_explained():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    codes = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BadInput" and isinstance(node.args[0], ast.Constant):
                codes.add(node.args[0].value)
    assert len(codes) > 20
    assert sorted(code for code in codes if f"`{code}`" not in page) == []


def test_every_test_that_is_named_exists():
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 20
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    absent = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert absent == []
