"""Which token ids begin and end what a backbone reads and writes: the tokenizer's own, under the roles that the architecture gives them."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from chiasm.recipe import BackboneSpec
from chiasm.types import RecipeError

ROLES = ("eos", "pad", "bos")
START = "decoder_start_token_id"
OF_DECODING = (START, "forced_bos_token_id", "forced_eos_token_id")


def full_precision(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config without the number format that its checkpoint was stored in (bf16, mostly): weights that train are kept in 32 bits."""
    note_format(config, None)
    return config


def note_format(config: PreTrainedConfig, dtype: Any) -> None:
    """Write into a config, and into those inside it, which number format the weights have."""
    config.dtype = dtype
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            note_format(part, dtype)


def tie_special_tokens(config: PreTrainedConfig, tokenizer: Any, *, resize: bool) -> None:
    """The config's vocabulary and special ids follow the tokenizer."""
    text = config.get_text_config()
    text.vocab_size = len(tokenizer) if resize else max(text.vocab_size, len(tokenizer))
    for name in ("bos", "eos", "pad"):
        value = getattr(tokenizer, f"{name}_token_id")
        if value is not None:
            setattr(text, f"{name}_token_id", value)


def decoding_tokens(config: PreTrainedConfig, tokenizer: Any, spec: BackboneSpec, whole: Any) -> dict[str, int | None]:
    """What an encoder-decoder begins to write with, and what its first and last token must be; the config learns how decoding starts.

    A checkpoint (`whole`) says it itself; of its generation config only this is taken over: how long, how many beams and so on is a task's
    to say. A fresh one does as its architecture does, with the tokenizer's tokens: BART begins with the end token, T5 with padding.
    """
    found: dict[str, int | None] = {}
    for name in OF_DECODING:
        usual = getattr(config, name, None)
        if whole is not None:
            given = getattr(whole.generation_config, name, None)
            found[name] = usual if given is None else given
        elif name in spec.options or usual is None:
            found[name] = usual
        else:
            role = next((role for role in ROLES if getattr(config, f"{role}_token_id", None) == usual), "pad")
            found[name] = getattr(tokenizer, f"{role}_token_id")
    if found[START] is None and whole is not None:
        raise RecipeError(f"backbone.model {spec.model}: its config.json has no {START}; add it (T5's is pad_token_id)")
    if found[START] is None:
        found[START] = tokenizer.pad_token_id
    setattr(config, START, found[START])
    return found


def text_layout(kind: Any, config: PreTrainedConfig, tokenizer: Any, options: Any) -> dict[str, Any]:
    """How a row begins and ends, and where placeholders stand that a prompt does not place.

    `target`: of an encoder-decoder, how what it writes begins (`before`: what decoding starts with; `start`) and ends.
    """
    if not kind.reads_text:
        return {"first": False, "start": [tokenizer.pad_token_id] * options.latents, "close": [], "side": "right"}
    if kind.has_encoder:
        start, close = edges(tokenizer)
        target = {"before": config.decoder_start_token_id, **dict(zip(("start", "close"), edges(tokenizer, "text_target"), strict=True))}
        return {"first": kind.placeholders_first, "start": start, "close": close, "side": "right", "target": target}
    begin = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    if (first := getattr(options, "start_token", None)) is not None:
        begin = tokenizer.get_vocab().get(first)
        if first and begin is None:
            raise RecipeError(f"backbone.start_token: the tokenizer has no token '{first}'")
    end = tokenizer.sep_token_id if not kind.causal else None
    ends = {"start": [] if begin is None else [begin], "close": [] if end is None else [end]}
    whole = {"as_written": True} if getattr(options, "as_written", False) else {}
    return {"first": kind.placeholders_first, **ends, "side": "left" if kind.generates else "right", **whole}


def edges(tokenizer: Any, how: str = "text") -> tuple[list[int], list[int]]:
    """What the tokenizer puts in front of a text and behind it; where it puts nothing behind, the end token, as T5 does."""
    bare = list(tokenizer(**{how: "a"}, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(**{how: "a"})["input_ids"])
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    if at is None:
        raise RecipeError("backbone.tokenizer: cannot tell where it puts special tokens; give another one")
    return whole[:at], whole[at + len(bare) :] or [tokenizer.eos_token_id]
