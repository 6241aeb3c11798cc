"""docs/fusion.md is true: its recipes build, its facts are the classes', its drawings and figures are made from the code as it is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
sys.path.insert(0, str(Path(__file__).parent / "contracts"))
import write_fusion_docs as docs
from draw_fusions import draw, plt
from tiny_models import BACKBONES, assembled, prepared, results
from trace_fusion import Reading, Recorder, Stage, made, traced

from chiasm import components
from chiasm.fusion.attention import Attention
from chiasm.fusion.base import BackboneShape, Fusion

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "fusion.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)$\n(.*?)(?=^##|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
NAMES = components.names("fusion")
PLACES = {"before": "before", "between": "between", "after": "after", "several places": "several", "nowhere": "nowhere"}
every_strategy = pytest.mark.parametrize("name", NAMES)


def bullet(name: str, kind: str) -> str:
    return " ".join(re.search(rf"^- \*\*{kind}\*\*:? (.*?)(?=\n- |\n\n)", SECTIONS[name], flags=re.DOTALL | re.MULTILINE)[1].split())


def recipe(text: str) -> dict:
    found = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)[1])
    assert list(found) == ["fusion"]
    return found["fusion"] if isinstance(found["fusion"], dict) else {"type": found["fusion"]}


def built(options: dict) -> Fusion:
    return made(options, BackboneShape(8, 3, 2, causal=True), {"image": 2, "audio": 2})


def test_every_strategy_has_its_section_under_the_place_where_it_acts():
    assert sorted(SECTIONS) == NAMES
    acts = {found["name"]: found["acts"] for found in docs.strategies()}
    for place, text in re.findall(r"^## (.*?)$\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE):
        for name in re.findall(r"^### (\w+)$", text, flags=re.MULTILINE):
            assert acts[name] == PLACES[place], name


@every_strategy
def test_a_section_says_what_the_class_says(name):
    kind = components.find("fusion", name)
    assert bullet(name, "Paper") == f"{kind.paper}."
    assert bullet(name, "Interaction").startswith("yes" if built(recipe(SECTIONS[name])).interacts else "no")
    heard = traced(docs.keys(name))
    frozen = "the prompt only" in bullet(name, "Causal backbones")
    assert frozen == (heard.streams_read_text or heard.router.get("text", False))
    assert all(bullet(name, kind) for kind in ("Use it", "Not", "Costs"))


@every_strategy
@torch.no_grad()
def test_a_snippet_is_a_recipe_that_runs(name, monkeypatch):
    options = recipe(SECTIONS[name])
    assert options["type"] == name
    monkeypatch.setitem(BACKBONES, "deep", {**BACKBONES["gpt2"], "n_layer": 4})
    model, processor = assembled(options, "deep")
    assert all(torch.isfinite(row).all() for row in results(model, prepared(processor, [0, 1])))


def test_which_ways_to_combine_can_represent_an_interaction():
    can, cannot = (set(re.findall(r"`(\w+)`", part)) for part in bullet("late", "Interaction").split(";"))
    ways = components.find("fusion", "late").Options.model_fields["combine"].annotation.__args__
    assert can | cannot == set(ways)
    assert {way for way in ways if built({"type": "late", "combine": way}).interacts} == can
    formulas = re.findall(r"^    (\w+): ", SECTIONS["late"], flags=re.MULTILINE)
    assert sorted(formulas) == sorted(ways)


def test_links_and_drawings_are_there():
    anchors = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    assert set(NAMES) <= set(anchors) <= set(NAMES)
    assert re.findall(r'src="fusion/(\w+)\.svg"', PAGE) == list(SECTIONS)
    assert [file.stem for file in sorted((ROOT / "docs" / "fusion").iterdir())] == NAMES


@every_strategy
def test_a_drawing_shows_what_the_strategy_does(name):
    shown = (ROOT / "docs" / "fusion" / f"{name}.svg").read_text(encoding="utf-8")
    figure = draw(name, traced(docs.keys(name)))
    (axes,) = figure.axes
    arrows = {patch.get_gid() for patch in axes.patches} - {None}
    labels = [text.get_text() for text in axes.texts]
    plt.close(figure)
    assert arrows
    assert set(re.findall(r'<g id="((?:layer|before|after|tasks)[\w.]*)"', shown)) == arrows, (
        "run .venv/bin/python scripts/write_fusion_docs.py"
    )
    assert sorted(re.findall(r"<!-- (.*?) -->", shown)) == sorted(labels), "run .venv/bin/python scripts/write_fusion_docs.py"


def test_a_trace_knows_who_reads_whom():
    """Against what is known of three strategies."""
    image, audio = Reading("image", 0, "text", 1), Reading("audio", 0, "text", 1)
    back = [Reading("text", 0, name, 1, prompt_only=True) for name in ("image", "audio")]
    stacked = traced({"type": "stacked"})
    assert [stacked.between[layer].readings for layer in range(3)] == [[image, audio], back, [image, audio]]
    assert stacked.streams_read_text
    gated = traced({"type": "gated_cross_attention", "every": 2})
    assert list(gated.between) == [0, 2] and gated.gated and not gated.streams_read_text
    early = traced({"type": "early", "inputs": ["audio"]})
    assert early.before == [{"audio"}] * 2 + [{"text"}] * 3
    assert not early.between and early.branches == {"text": {"text"}}


def test_a_strategy_without_attention_is_traced_by_gradients(tmp_path, monkeypatch):
    """CONTRIBUTING.md's own strategy, from outside."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## A fusion strategy in one file")[1]
    (tmp_path / "film_outside.py").write_text(re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    film = traced({"type": "film_outside:FilmLayers", "every": 2})
    assert film.between == {layer: Stage([Reading("audio", 0, "text", 1), Reading("image", 0, "text", 1)]) for layer in (0, 2)}
    assert film.gated and film.nodes == ["image", "audio", "text"]


@pytest.mark.parametrize("missed", ["image", "audio", "latents"])
def test_a_reading_that_was_missed_is_found_out(missed, monkeypatch):
    attend = Recorder.attend

    def forgetful(self, *args):
        done = attend(self, *args)
        self.readings = [reading for reading in self.readings if reading.source != missed]
        return done

    monkeypatch.setattr(Recorder, "attend", forgetful)
    with pytest.raises(AssertionError, match="the gradients"):
        traced({"type": "bottleneck"})


def test_a_reading_that_is_not_there_is_found_out():
    both = [Reading("image", 0, "text", 1), Reading("audio", 0, "text", 1)]
    Stage(both).check(both, {"image", "audio", "text"})
    with pytest.raises(AssertionError, match="the gradients"):
        Stage(both).check(both[:1], {"image", "audio", "text"})


def table() -> dict[str, str]:
    return {re.match(r"\| \[?`?(\w[\w ]*\w)", line)[1]: line for line in docs.TABLE.search(PAGE)[0].splitlines(keepends=True)[2:]}


def test_the_table_has_every_strategy_and_its_weights():
    """Weights of some by hand; the slow test counts every figure."""
    lines = table()
    assert list(lines) == [*NAMES, "the backbone"]
    width, positions = 768, (196 + 50) * 768
    norms, attention = 2 * width, 4 * width**2 + 3 * width
    for name, weights in {
        "early": positions,
        "cross_attention": positions + 12 * 2 * (attention + 2 * norms),
        "stacked": positions + 6 * (attention + 3 * norms) + 6 * 2 * (attention + 2 * norms),
    }.items():
        assert f"| {weights / 1e6:.1f} M |" in lines[name]
    for name in ("early", "late", "dynamic", "none"):
        assert lines[name] == docs.row(name), "run .venv/bin/python scripts/write_fusion_docs.py"


@pytest.mark.slow
def test_the_table_is_up_to_date():
    assert docs.TABLE.search(PAGE)[0] == docs.table(), "run .venv/bin/python scripts/write_fusion_docs.py"


@torch.no_grad()
def test_multiply_adds_are_those_of_the_formula():
    """cross_attention: per layer and input, query and output for the words, key and value for the tokens, and the products of both."""
    width, words = 768, 32
    expected = sum(2 * words * width**2 + 2 * length * width**2 + 2 * words * length * width for length in (196, 50))
    products = docs.cost({"type": "cross_attention", "every": 12})[1]
    assert products == expected
    assert any(isinstance(module, Attention) for module in built({"type": "cross_attention"}).modules())


def test_evidence_stands_in_its_place():
    assert re.search(
        r"<!-- evidence:start -->\n### What was measured\n.*<!-- evidence:end -->\n\n## What each can and costs", PAGE, re.DOTALL
    )
