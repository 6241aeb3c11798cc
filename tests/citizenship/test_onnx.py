"""torch.onnx and onnxruntime: the forward pass gives the model's values, on rows that it was not traced with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from citizens import QUICK, SLOW, citizen, image, prepared, sound

from chiasm.export.onnx import Forward, compared, quiet

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")


def given(processor, row: int) -> dict[str, torch.Tensor]:
    return dict(prepared(processor, [0], image=[image(row)], audio=[sound(row)]))


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "backbone"), [*QUICK, *SLOW])
def test_onnxruntime_gives_the_same_logits(fusion, backbone, tmp_path):
    model, processor = citizen(fusion, backbone)
    rows = [given(processor, row) for row in range(3)]
    program = Forward(model, model.tasks["answer"], list(rows[0])).eval()
    with torch.no_grad(), quiet():
        made = torch.onnx.export(program, tuple(rows[0].values()), dynamo=True, input_names=list(rows[0]), verbose=False)
        made.save(tmp_path / "model.onnx")
    difference = compared(program, rows, tmp_path / "model.onnx")
    print(f"{fusion} on {backbone}: {difference:.1e}")
    assert difference <= 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_own_exporter(tmp_path):
    exporters = pytest.importorskip("transformers.exporters.exporter_onnx", reason="this transformers has no exporters")
    model, processor = citizen("early", "gpt2")
    with quiet():
        found = exporters.OnnxExporter().export(model, given(processor, 0), config=exporters.OnnxConfig())
    program = getattr(found, "program", found)
    assert {"logits"} <= {value.name for value in getattr(program, "model", program).graph.outputs}
