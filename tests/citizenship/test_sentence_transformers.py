"""sentence-transformers: `SentenceTransformer(FOLDER).encode()` gives the vectors of a contrast task, for texts, pictures and sounds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from citizens import WORDS, assembled, image, prepared, rows, sound

from chiasm.export.hub import write_sentence_transformers
from chiasm.types import Batch

library = pytest.importorskip("sentence_transformers", reason="needs the extra st")
WRITES = {"type": "generate", "prompt": "{question}", "target": "{answer}"}


def saved(folder: Path, **tasks):
    model, processor = assembled({"type": "early"}, "gpt2", tasks={"answer": WRITES, **tasks})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, write_sentence_transformers(model, folder)


@pytest.mark.parametrize("through", ["embeddings", "backbone"])
def test_texts_and_pictures_are_the_tasks_own_vectors(through, tmp_path):
    model, processor, encodes = saved(tmp_path, align={"type": "contrast", "between": ["image", "caption"], "width": 12, "text": through})
    assert encodes == ["text", "image"]
    captions = [WORDS[0], WORDS[2], WORDS[3]]
    found = library.SentenceTransformer(str(tmp_path), device="cpu")
    texts, pictures = found.encode(captions), found.encode([image(i) for i in range(3)], batch_size=2)
    samples = [type(row)(row.id, {**row.parts, "caption": caption}) for row, caption in zip(rows(3), captions, strict=True)]
    media = prepared(processor, [0, 1, 2], audio=[None] * 3)
    inputs, targets = model.tasks["align"].collate(samples, processor)
    batch = Batch("align", ["0", "1", "2"], {**inputs, "image_index": media["image_index"]}, targets)
    with torch.no_grad():
        own = model.tasks["align"].predict(model, batch, model.encode({"image": {"pixel_values": media["pixel_values"]}}))
    np.testing.assert_allclose(texts, [p.output["caption"] for p in own], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pictures, [p.output["image"] for p in own], rtol=1e-4, atol=1e-5)
    assert texts.shape == pictures.shape == (3, 12) and float(found.similarity(texts, pictures).abs().max()) <= 1 + 1e-5


def test_pictures_and_sounds(tmp_path):
    model, processor, encodes = saved(tmp_path, align={"type": "contrast", "between": ["image", "audio"], "width": 12})
    assert encodes == ["image", "audio"]
    found = library.SentenceTransformer(str(tmp_path), device="cpu")
    sounds = found.encode([{"array": sound(i), "sampling_rate": 8000} for i in range(2)])
    with torch.no_grad():
        heard = processor(text=["", ""], audio=[sound(0), sound(1)])
        own = model.embed_audio(heard["input_values"], heard["input_values_mask"]).pooler_output
    np.testing.assert_allclose(sounds, own, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="no vectors of its own for text: no task compares it"):
        model.embed_text(heard["input_ids"])


def test_without_a_task_that_compares_there_is_nothing_to_encode(tmp_path):
    assert saved(tmp_path)[2] == [] and not (tmp_path / "modules.json").exists()
