"""A pretrained BERT guesses masked words as transformers' own model does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from chiasm.assemble import build
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.recipe import load_recipe
from chiasm.types import Occasion, RecipeError, Sample

TEXTS = ["a red cat above a blue dog", "a green house near the old bridge", "what is this ?"]
ROWS = [Sample(f"row{i}", {"image": np.full((2, 4), i, np.float32), "caption": text}) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = learn_tokenizer(TEXTS, kind="words", vocab_size=100, placeholders=[], mask=True)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.3}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **sizes)
    whole = BertForMaskedLM(config).eval()
    torch.nn.init.normal_(whole.cls.predictions.bias)
    for name, model in {"whole": whole, "headless": BertModel(config, add_pooling_layer=False)}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def made(model, **changes):
    recipe = {
        "inputs": {"image": {"modality": "features"}},
        "backbone": {"model": str(model)},
        "fusion": "cross_attention",
        "tasks": {"fill": {"type": "mask", "text": "{caption}"}},
        **changes,
    }
    return build(load_recipe(recipe), ROWS)


@torch.no_grad()
def test_the_checkpoints_head_is_taken_over(checkpoints):
    model, processor = made(checkpoints / "whole")
    task = model.eval().tasks["fill"]
    inputs, targets = task.collate(ROWS, processor, Occasion())
    theirs = BertForMaskedLM.from_pretrained(checkpoints / "whole").eval()(inputs["input_ids"], inputs["attention_mask"]).logits
    head, words = model.heads["fill"], model.get_input_embeddings().weight
    ours = model.text_logits(model.fuse(inputs, {}), targets["hidden"], lambda values: head(values, words))
    assert torch.allclose(ours[:, : theirs.shape[-1]], theirs[targets["hidden"]], atol=1e-5)


def test_a_checkpoint_without_one_gets_a_fresh_head(checkpoints):
    model, _ = made(checkpoints / "headless")
    assert not torch.equal(model.heads["fill"].bias[:10], made(checkpoints / "whole")[0].heads["fill"].bias[:10])
    assert model.heads["fill"].bias.eq(0).all()


def test_a_backbone_that_writes_is_refused():
    with pytest.raises(RecipeError, match="tasks.fill: a causal backbone writes words and cannot fill them in; take type: generate"):
        made("", backbone={"arch": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "tokenizer": "words"})
