"""VisualBERT checkpoints as Chiasm runs: equal hidden states and logits, with texts and pictures of unequal length."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForMultimodalLM, AutoProcessor, VisualBertConfig

sys.path.insert(0, str(Path(__file__).parent))
from tiny_checkpoints import SIZES, SMALLER, spread, tokenizer_of

import chiasm
from chiasm.types import ChiasmError

CASES = {  # class, sizes, the rest
    "answers": ("VisualBertForQuestionAnswering", SIZES, {"num_labels": 5, "visual_embedding_dim": 12}),
    "reasoning": (
        "VisualBertForVisualReasoning",
        SMALLER,
        {"num_labels": 2, "visual_embedding_dim": 7, "special_visual_initialize": False},
    ),
    "matching": ("VisualBertForPreTraining", SMALLER, {"visual_embedding_dim": 16, "type_vocab_size": 3}),
    "no head": ("VisualBertModel", SIZES, {"visual_embedding_dim": 9}),
}
TEXTS = ["is there a red cat ?", "yes", "a blue dog and a green house near the old bridge"]


def save(folder: Path, kind: str, sizes: dict, more: dict):
    """A checkpoint in `folder`, and the model that transformers loads from it."""
    torch.manual_seed(7)
    tokenizer = tokenizer_of(like="bert")
    config = VisualBertConfig(vocab_size=len(tokenizer), **sizes, **more, max_position_embeddings=40, pad_token_id=0)
    spread(getattr(transformers, kind)(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return getattr(transformers, kind).from_pretrained(folder).eval()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_hidden_states_and_logits_are_equal(tmp_path, name):
    theirs = save(tmp_path / "checkpoint", *CASES[name])
    done = chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    assert max(done.differences.values()) <= 1e-5 and "hidden states" in done.differences
    assert ("logits" in done.differences) == (name != "no head")
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "run" / "model").eval()
    reader = AutoProcessor.from_pretrained(tmp_path / "run" / "model")
    draw = np.random.default_rng(0)
    regions = [draw.normal(size=(length, theirs.config.visual_embedding_dim)).astype(np.float32) for length in (4, 1, 7)]
    given = reader(text=TEXTS, regions=regions)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    read = tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="pt")
    seen = torch.zeros(3, 7, theirs.config.visual_embedding_dim)
    for row, value in enumerate(regions):
        seen[row, : len(value)] = torch.from_numpy(value)
    shown = (torch.arange(7) < torch.tensor([[4], [1], [7]])).long()
    text = {key: read[key] for key in ("input_ids", "attention_mask")}
    wanted = theirs(**text, visual_embeds=seen, visual_attention_mask=shown, output_hidden_states=True)
    fused = model.model(**given).fused
    length, visible = read["input_ids"].shape[1], fused.branches["text"].mask
    for row, (tokens, hidden) in enumerate(zip(fused.branches["text"].values, wanted.hidden_states[-1], strict=True)):
        words, pictures = hidden[:length][read["attention_mask"][row].bool()], hidden[length:][shown[row].bool()]
        torch.testing.assert_close(tokens[fused.words[row]], words, rtol=0, atol=1e-5)
        torch.testing.assert_close(tokens[visible[row] & ~fused.words[row]], pictures, rtol=0, atol=1e-5)
    if name != "no head":
        logits = wanted.seq_relationship_logits if name == "matching" else wanted.logits
        torch.testing.assert_close(model.head_logits("answer", fused, mix="values"), logits, rtol=0, atol=1e-5)
        run = chiasm.load(tmp_path / "run")
        rows = [{"regions": value.tolist(), "question": text} for value, text in zip(regions, TEXTS, strict=True)]
        labels = ["match", "random"] if name == "matching" else list(theirs.config.id2label.values())
        assert [p.output for p in run.predict(rows)] == [labels[i] for i in logits.argmax(-1).tolist()]
        assert logits.std(0).min() > 1e-2  # rows do not look alike


def test_what_has_no_place_is_refused_by_its_key(tmp_path):
    for change, says in (
        ({"bypass_transformer": True}, "bypass_transformer: true"),
        (
            {"architectures": ["VisualBertForMultipleChoice"]},
            "architectures: VisualBertForMultipleChoice cannot be converted; of visual_bert",
        ),
    ):
        VisualBertConfig(**change).save_pretrained(tmp_path / "c")
        with pytest.raises(ChiasmError, match=says) as found:
            chiasm.convert(tmp_path / "c", tmp_path / "run")
        assert "\n" not in str(found.value)


def test_a_tokenizer_may_come_from_elsewhere(tmp_path):
    """uclanlp's checkpoints bring none; theirs is bert-base-uncased's."""
    save(tmp_path / "checkpoint", *CASES["reasoning"])
    tokenizer_of(like="bert").save_pretrained(tmp_path / "words")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "checkpoint" / name).unlink()
    with pytest.raises(ChiasmError, match="tokenizer"):
        chiasm.convert(tmp_path / "checkpoint", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    done = chiasm.convert(tmp_path / "checkpoint", tmp_path / "run", tokenizer=str(tmp_path / "words"))
    assert max(done.differences.values()) <= 1e-5
