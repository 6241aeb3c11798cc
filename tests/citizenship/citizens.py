"""Tiny models that see, hear and read, and what is asked of them, for the tests in other people's tools."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
from tiny_models import WORDS, assembled, picture, prepared, rows, sound, tiny

__all__ = ["MODELS", "QUESTION", "QUICK", "SLOW", "WORDS"]
__all__ += ["assembled", "chat", "citizen", "image", "picture", "png", "prepared", "rows", "sound", "wav"]

QUICK = [("early", "gpt2"), ("gated_cross_attention", "llama")]
SLOW = [("early", "llama"), ("gated_cross_attention", "gpt2")]
MODELS = [*QUICK, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in SLOW)]
QUESTION = WORDS[0]


def citizen(fusion: str, backbone: str) -> tuple[Any, Any]:
    """(model in eval mode, processor) of one's own."""
    model, processor = copy.deepcopy(tiny(fusion, backbone))
    model.processor = processor
    return model.eval(), processor


def image(seed: int = 0) -> Image.Image:
    return Image.fromarray(picture(seed))


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    image(seed).save(file, "PNG")
    return file.getvalue()


def wav(seed: int = 0, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(seed), rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def chat(*media: dict[str, Any], text: str = QUESTION, answer: str | None = None) -> list[dict[str, Any]]:
    """One question about some media, and its answer if there is one."""
    asked = [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]
    return asked if answer is None else [*asked, {"role": "assistant", "content": answer}]
