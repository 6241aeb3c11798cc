"""A run with contrast tasks: one that only compares is served, and what is asked with one side alone is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_server import DIALOGUE, WORDS, image, png, running, tiny_run

import chiasm
from chiasm.types import BadInput
from chiasm_cli.main import run as command

ALIGN = {"type": "contrast", "between": ["image", "answer"], "text": "backbone"}
ONLY = {**DIALOGUE, "name": "towers", "inputs": {"image": DIALOGUE["inputs"]["image"]}, "fusion": "none", "tasks": {"align": ALIGN}}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    """A run that compares pictures with a column of text, which is no input, and does nothing else."""
    return tiny_run(tmp_path_factory.mktemp("towers"), **ONLY)


def test_a_run_that_only_compares_is_served(towers):
    with running(towers) as client:
        found = client.post("/v1/embeddings", {"model": "towers", "input": [WORDS[0], image(png(1))]})
        vectors = [np.array(row["embedding"]) for row in found.json["data"]]
        both = client.chat(image(png(1)), model="towers", inputs={"answer": WORDS[0]})
        assert both.text == f"similarity: {vectors[0] @ vectors[1]:.4f}"
        for streamed in (False, True):
            alone = client.chat(image(png(1)), model="towers", stream=streamed)
            assert alone.status == 400 and alone.error["code"] == "no_other_side" and alone.error["param"] == "answer"
            assert "was given no answer" in alone.error["message"] and "does not answer" in alone.error["message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_half_a_comparison_is_refused_with_the_tasks_that_answer(client, streamed):
    found = client.chat(image(png(1)), task="align", stream=streamed)
    assert found.status == 400 and found.error["param"] == "answer"
    assert "tasks that answer: answer, kind" in found.error["message"]


def test_half_a_comparison_has_nothing_to_explain(run, client):
    message = {"role": "user", "content": [image(png(1))]}
    found = client.post("/v1/explain", {"model": "tiny", "messages": [message], "task": "align", "level": "modality"})
    assert found.status == 400 and found.error["code"] == "no_other_side"
    for given, lacking in (({"image": png(1)}, "answer"), ({"answer": WORDS[0]}, "image")):
        with pytest.raises(BadInput, match=f"was given no {lacking}"):
            chiasm.explain(run, given, task="align", level="modality")
    chiasm.explain(run, {"image": png(1), "answer": WORDS[0]}, task="align", level="modality")


def test_a_row_with_one_side_gets_its_vector_whatever_stands_beside_it(towers):
    seen, both = {"image": png(1)}, {"image": png(1), "answer": WORDS[0]}
    (alone,) = towers.predict([seen])
    mixed = towers.predict([seen, both])
    assert [set(found.output) for found in (alone, *mixed)] == [{"image"}, {"image"}, {"image", "answer"}]
    assert alone.output["image"] == pytest.approx(mixed[1].output["image"], abs=1e-6)
    assert alone.score is None and mixed[0].score is None and -1 <= mixed[1].score <= 1


def test_ask_says_which_side_is_missing(towers, tmp_path, capsys):
    (tmp_path / "picture.png").write_bytes(png(1))
    given = ["ask", str(towers.folder), "--image", str(tmp_path / "picture.png")]
    assert command(given) == 2
    assert "task align compares image with answer, and was given no answer; give both" in capsys.readouterr().err
    assert command([*given, "--input", f"answer={WORDS[0]}"]) == 0
    assert "similarity: " in capsys.readouterr().out
