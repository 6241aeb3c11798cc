"""Tiny random vision-language models on disk (config, weights, tokenizer, image processor, chat template), as a Hub folder has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["what colour is the square in the picture ?", "how many dogs are there , and where ?", "red green blue yes no one two three"]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (  # of llava-hf/llava-1.5-7b-hf, shortened: an answer has no token of its own behind it
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}{{ ':' }}"
    "{% else %}{{ ': ' }}{% endif %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) "
    "+ '\n' }}{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def tokenizer(special: list[str], **roles: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE that was trained on a few sentences; `special` tokens come first."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **roles)


def llava() -> tuple[Any, Any]:
    words = tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad_token="<pad>", bos_token="<s>", eos_token="</s>", image_token="<image>")
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(words)},
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 16, "patch_size": 8, "projection_dim": 16},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        pictures,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return config, processor


def idefics3() -> tuple[Any, Any]:
    special = ["<pad>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer(special, pad_token="<pad>", bos_token="<|im_start|>", eos_token="<end_of_utterance>")
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id},
        vision_config={**VISION, "image_size": 16, "patch_size": 4},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    pictures = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return config, transformers.Idefics3Processor(pictures, words, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)


def gemma3() -> tuple[Any, Any]:
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    roles = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(special, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", extra_special_tokens=roles)
    config = transformers.Gemma3Config(
        text_config={**TEXT, "vocab_size": len(words), "query_pre_attn_scalar": 8, "sliding_window": 64},
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 16, "patch_size": 4, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=words.convert_tokens_to_ids("<end_of_image>"),
        eos_token_id=[1, 4],
    )
    pictures = transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    return config, transformers.Gemma3Processor(pictures, words, image_seq_length=4, chat_template=GEMMA_TEMPLATE)


def qwen2_5_vl() -> tuple[Any, Any]:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(special, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **{k: v for k, v in TEXT.items() if k != "head_dim"},
            "vocab_size": len(words),
            "bos_token_id": None,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.3,
        },
        **{f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")},
        vision_start_token_id=3,
        vision_end_token_id=4,
    )
    pictures = transformers.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 1024})
    return config, (pictures, words, "Qwen2_5_VLProcessor", CHATML)  # the whole processor needs torchvision, for its videos


def qwen3_vl() -> tuple[Any, Any]:
    """Its pictures also enter the language model's first layers."""
    old, (pictures, words, _, template) = qwen2_5_vl()
    config = transformers.Qwen3VLConfig(
        text_config={**old.text_config.to_dict(), "model_type": "qwen3_vl_text", "head_dim": 8},
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 64,
            "initializer_range": 0.3,
        },
        **{key: getattr(old, key) for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")},
    )
    return config, (pictures, words, "Qwen3VLProcessor", template)


MAKERS = {"llava": llava, "idefics3": idefics3, "gemma3": gemma3, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}
NAMES = tuple(MAKERS)[:4]  # that quick tests try


def save(name: str, folder: Path) -> Path:
    """Write the tiny model called `name` into `folder`, the way its authors publish it."""
    torch.manual_seed(0)
    config, processor = MAKERS[name]()
    model = transformers.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():  # Gemma 3's projector starts with 0, so that it would see nothing
                parameter.add_(0.5 * torch.randn_like(parameter))
    if isinstance(processor, tuple):
        pictures, words, kind, template = processor
        words.save_pretrained(folder)
        pictures.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        (folder / "processor_config.json").write_text(f'{{"processor_class": "{kind}"}}', encoding="utf-8")
    else:
        processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
