"""TRL's supervised fine-tuning on chats with pictures, with the model's own chat template."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from citizens import QUESTION, QUICK, WORDS, citizen, image

trl = pytest.importorskip("trl", reason="needs the extra trl")
datasets = pytest.importorskip("datasets")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("fusion", "backbone"), QUICK)
def test_chats_with_pictures(fusion, backbone, tmp_path):
    model, processor = citizen(fusion, backbone)
    asked = [QUESTION, WORDS[1], WORDS[0], WORDS[1]]
    chats = [[{"role": "user", "content": a}, {"role": "assistant", "content": "yes" if i % 2 else "no"}] for i, a in enumerate(asked)]
    data = datasets.Dataset.from_dict({"messages": chats, "images": [[image(i)] for i in range(4)]})
    settings = trl.SFTConfig(
        str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=5,
        learning_rate=1e-2,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
        assistant_only_loss=True,
        max_length=None,
    )
    trainer = trl.SFTTrainer(model, args=settings, train_dataset=data, processing_class=processor)
    batch = trainer.data_collator([data[i] for i in range(4)])
    learned = batch["labels"][0][batch["labels"][0] != -100]
    assert processor.tokenizer.decode(learned, skip_special_tokens=True).strip() == "no" and learned[-1] == processor.end_id
    with torch.no_grad():
        expected = float(model.eval()(**batch).loss)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-2) and losses[-1] < losses[0]
