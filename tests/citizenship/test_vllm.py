"""What vLLM's transformers backend asks of a model (its `docs/models/supported_models.md`, "Writing custom models", and
`model_executor/models/transformers/{base,multimodal}.py`), asked here in the same words and order. vLLM itself is not run.

It serves early fusion of pictures and text on a decoder: its own attention cannot read what other fusions bring between the layers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

sys.path.insert(0, str(Path(__file__).parent))
from citizens import QUESTION, assembled, image

SEES = {
    "inputs": {"image": {"modality": "image", "size": 16}, "question": "text"},
    "encoders": {"image": {"arch": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}},
}


@pytest.fixture(scope="module", params=["gpt2", "llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def served(request, tmp_path_factory):
    """(the model as it is, the folder that vLLM would be given, its processor)."""
    model, processor = assembled({"type": "early", "normalize": True, "positions": "learned"}, request.param, **SEES)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, folder, AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def test_the_decoder_calls_the_engines_attention_once_per_layer(served):
    model, folder, reader = served
    seen = []

    def paged(module, query, key, value, attention_mask, *, scaling=None, attention_instances=None, **kwargs):
        seen.append((module.layer_idx, attention_instances[module.layer_idx]))
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return (scores.masked_fill(future, -torch.inf).softmax(-1) @ value).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("vllm", paged)
    config = AutoConfig.from_pretrained(folder)
    assert config.get_text_config() != config and type(config).sub_configs
    config.get_text_config()._attn_implementation = "vllm"
    engine = AutoModel.from_config(config).eval()
    assert engine._supports_attention_backend and engine.get_decoder() is engine.language_model
    engine.load_state_dict(model.model.state_dict())

    inputs = reader(text=f"{reader.image_token}{QUESTION}", images=[image()], return_tensors="pt")
    pictures = engine.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
    ids = inputs["input_ids"]
    embeds = engine.get_input_embeddings()(ids)
    place = ids == reader.image_token_id
    embeds[place] = torch.cat([p.reshape(-1, p.shape[-1]) for p in pictures])
    expected = model.model(**inputs).last_hidden_state[0]
    instances = {i: f"cache {i}" for i in range(config.get_text_config().num_hidden_layers)}
    passed = {"input_ids": None, "use_cache": False, "return_dict": False, "attention_instances": instances}
    found = engine(inputs_embeds=embeds, position_ids=torch.arange(ids.shape[1])[None], **passed)[0][0, ...]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert seen == list(instances.items())
    many = -(-engine.max_length // ids.shape[1]) + 1  # texts of several requests lie in one row, which may be longer than any text
    positions = torch.arange(ids.shape[1]).repeat(many)[None]
    packed = engine(inputs_embeds=embeds.repeat(1, many, 1), position_ids=positions, **passed)[0][0]
    torch.testing.assert_close(packed[: len(expected)], expected, rtol=1e-4, atol=1e-4)


def test_the_processor_says_where_pictures_go_and_how_many_tokens_they_take(served):
    _, _, reader = served
    count = reader.placeholder_counts["image"]
    assert hasattr(reader, "image_processor") and not hasattr(reader, "feature_extractor") and not hasattr(reader, "video_processor")
    assert reader.image_processor.size == {"height": 16, "width": 16} and "pixel_values" in reader.image_processor.model_input_names
    told = reader._get_num_multimodal_tokens(image_sizes=[[16, 16], [900, 20]])
    assert told["num_image_tokens"] == [count] * 2 and told["num_image_patches"] == [1, 1] and "num_audio_tokens" not in told
    dummy = reader(text=reader.image_token * 2, images=[image(0), image(1)], return_tensors="pt", return_text_replacement_offsets=True)
    assert [entry["type"] for entry in dummy["text_replacement_offsets"][0]] == ["image"] * 2
    for entry in dummy["text_replacement_offsets"][0]:
        ids = reader.tokenizer.encode(entry["replacement"], add_special_tokens=False)
        assert ids == [reader.image_token_id] * count
    assert dummy["pixel_values"].shape[0] == 2  # one row of media per picture
    marked = reader(text=f"{reader.image_token}{QUESTION}", images=[image()], return_mm_token_type_ids=True)
    assert torch.equal(marked["mm_token_type_ids"] == 1, marked["input_ids"] == reader.image_token_id)


def test_a_chat_through_the_tokenizer_alone_is_the_processors(served):
    """vLLM tokenizes a rendered chat with one placeholder per picture, and expands those itself."""
    _, _, reader = served
    messages = [{"role": "user", "content": [{"type": "image", "image": image()}, {"type": "text", "text": QUESTION}]}]
    ids = reader.tokenizer.encode(reader.apply_chat_template(messages), add_special_tokens=False)
    place = ids.index(reader.image_token_id)
    ids[place : place + 1] = [reader.image_token_id] * reader.placeholder_counts["image"]
    assert ids == reader.apply_chat_template(messages, tokenize=True)[0].tolist()
