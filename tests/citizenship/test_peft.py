"""PEFT: low-rank adapters around the whole model; trained, saved, loaded, merged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

sys.path.insert(0, str(Path(__file__).parent))
from citizens import MODELS, citizen, prepared

TARGETS = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(("fusion", "backbone"), MODELS)
def test_adapters_train_save_load_and_merge(fusion, backbone, tmp_path):
    model, processor = citizen(fusion, backbone)
    config = LoraConfig(r=4, target_modules=TARGETS[backbone], fan_in_fan_out=backbone == "gpt2", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    inputs = prepared(processor, [0, 1])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < sum(p.numel() for p in adapted.parameters()) / 2
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    losses = []
    for _ in range(5):
        loss = adapted(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    adapted.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["adapter_model.safetensors"]
    with torch.no_grad():
        expected, written = adapted(**inputs).logits, adapted.generate(**inputs, max_new_tokens=3, do_sample=False)
        loaded = PeftModel.from_pretrained(citizen(fusion, backbone)[0], tmp_path).eval()
        assert torch.equal(loaded(**inputs).logits, expected)
        merged = loaded.merge_and_unload()
        assert type(merged) is type(citizen(fusion, backbone)[0])
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(merged.generate(**inputs, max_new_tokens=3, do_sample=False), written)
