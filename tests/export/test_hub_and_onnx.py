"""One real run through `chiasm export`: a folder for the Hub with its card, an ONNX file with its parity, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import tiny_run

import chiasm
from chiasm.types import ChiasmError
from chiasm_cli.main import run as command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def hub(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tiny-scenes"
    assert command(["export", str(run.folder), "--to", "hub", "--output", str(folder)]) == 0
    return folder


def test_the_card_says_what_a_reader_needs(run, hub):
    card = ModelCard.load(hub / "README.md")
    assert card.data.library_name == "chiasm" and card.data.pipeline_tag == "any-to-any"
    assert {"chiasm", "fusion-early", "image", "audio", "text"} <= set(card.data.tags) and card.data.license is None
    text = card.text
    for heading in ("What it reads", "How to use it", "How it was trained", "Scores", "Limits"):
        assert f"## {heading}" in text
    score = run.metrics["test"]["answer.exact_match"]
    low, high = run.details["test"]["intervals"]["answer.exact_match"]
    assert f"| exact_match | {score:.3f} [{low:.3f}, {high:.3f}]" in text
    for control in ("image shuffled", "image missing", "audio missing", "question missing"):
        assert control in text
    assert str(run.folder.parent) not in text + (hub / "recipe.yaml").read_text()  # no folder of this machine
    assert "| `audio` | audio | sampling_rate 8000, seconds 1.0 |" in text
    values = {(r.metric_name, r.metric_value) for r in card.data.eval_results}
    assert ("answer exact_match", score) in values


def test_the_folder_is_loaded_as_a_run(run, hub):
    asked = {"image": np.zeros((64, 64, 3), np.uint8), "question": "what is it ?"}
    assert chiasm.load(hub).answer(**asked) == run.answer(**asked)


@pytest.mark.slow
def test_the_five_lines_of_the_card_run(hub):
    code = (hub / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 6
    media = "import numpy as np\npicture, sound = np.zeros((64, 64, 3), np.uint8), np.zeros(8000, np.float32)\n"
    ready = media + code.replace("USER/NAME", str(hub))
    done = subprocess.run([sys.executable, "-c", ready], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().startswith("[")


@pytest.mark.slow
def test_the_folder_is_loaded_without_importing_chiasm(run, hub, tmp_path):
    assert json.loads((hub / "config.json").read_text())["auto_map"]["AutoModel"] == "modeling_chiasm.ChiasmModel"  # what vLLM looks for
    code = f"""
import sys
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor
processor = AutoProcessor.from_pretrained({str(hub)!r}, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained({str(hub)!r}, trust_remote_code=True).eval()
print(float(model(**processor(text="what is it ?")).logits.sum()))
model.save_pretrained({str(tmp_path)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "m")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = float(run.model(**run.processor(text="what is it ?")).logits.sum())
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-4)


def test_onnx_of_the_first_task(run, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    folder = tmp_path / "onnx"
    assert command(["export", str(run.folder), "--to", "onnx", "--output", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    print("parity:", facts["max_difference"])
    assert facts["max_difference"] <= 1e-4 and facts["compared"] > 1 and facts["inputs"]["pixel_values"] == [1, 3, 64, 64]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = run.processor(
        text="what is in the top left ? answer :", images=[np.full((64, 64, 3), 9, np.uint8)], audio=[np.ones(8000, np.float32)]
    )
    length = facts["inputs"]["input_ids"][1]
    pad = length - inputs["input_ids"].shape[1]
    given = dict(inputs)
    for name, fill in (("input_ids", run.processor.pad_id), ("attention_mask", 0)):
        given[name] = torch.nn.functional.pad(inputs[name], (pad, 0), value=fill)
    logits = session.run(None, {entry.name: given[entry.name].numpy() for entry in session.get_inputs()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(logits[0, pad:], run.model(**inputs).logits[0].numpy(), rtol=1e-3, atol=1e-4)


def test_what_is_refused(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for arguments, message in (
        (["--to", "hbu", "--output", str(tmp_path / "a")], "no such target; did you mean 'hub'"),
        (["--to", "hub", "--output", str(tmp_path / "full")], "is not empty; name a new folder"),
        (["--to", "transformers", "--output", str(tmp_path / "b")], "this run reads image, audio"),
    ):
        assert command(["export", str(run.folder), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]  # nothing half-done is left
    assert (tmp_path / "full" / "file").read_text() == "mine"
    with pytest.raises(ChiasmError, match="no such target"):
        chiasm.export(run, to="tflite", output=tmp_path / "c")
