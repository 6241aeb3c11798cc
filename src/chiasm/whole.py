"""What a recipe takes over of a whole vision-language checkpoint besides its weights: which inputs it reads, its processor, how it stops.

Whatever is taken over is compared with transformers' own model and processor when the model is built, so that a difference is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig

from chiasm.loading import reason_of
from chiasm.reading import Reader, read_spec
from chiasm.recipe import Recipe
from chiasm.types import RecipeError

ENDS = ("eos_token_id", "bos_token_id", "pad_token_id")


def inputs_read(recipe: Recipe, kind: Any) -> list[str]:
    """The inputs that a backbone of this kind reads itself: those of its modalities for which the recipe names no encoder."""
    for task, spec in recipe.tasks.items() if kind.reads else ():
        if spec.options.get("repeat"):
            raise RecipeError(
                f"tasks.{task}.repeat: {recipe.backbone.model} has a chat template of its own, and repeats no records; remove it"
            )
    found = [name for name, spec in recipe.inputs.items() if spec.modality in kind.reads and recipe.encoder_for(name) is None]
    for task, spec in recipe.tasks.items():
        prompt = str(spec.options.get("prompt") or "")
        for name in found:
            if prompt.count(f"{{{name}}}") > 1:
                raise RecipeError(
                    f"tasks.{task}.prompt: {{{name}}} stands twice in it, and the backbone reads a picture once; leave one out"
                )
    return found


def keep_sequence(recipe: Recipe, kind: Any, scattered: Sequence[str], marked: Sequence[str]) -> None:
    """RecipeError where a fusion puts inputs (`scattered`), or marks of their places, into a sequence whose layout is the model's own."""
    if kind.reads and scattered:
        raise RecipeError(
            f"fusion.type: {recipe.fusion.type} puts '{scattered[0]}' into the sequence, and a vision-language model's is its own; "
            "take gated_cross_attention, cross_attention or late"
        )
    if kind.reads and marked:
        raise RecipeError(
            f"fusion.see: it marks in the sequence where each '{marked[0]}' stands, and a vision-language model's is its own; use see: all"
        )


def read_checkpoint(recipe: Recipe, config: PreTrainedConfig, tokenizer: Any) -> dict[str, Any]:
    """The own processor of the recipe's vision-language backbone, as plain data."""
    spec = recipe.backbone
    if not spec.model:
        raise RecipeError(f"backbone.arch: {config.model_type} reads pictures by a processor that only a checkpoint has; write model: NAME")
    try:
        chat, pictures = spec.options.get("chat"), spec.options.get("pictures", {})
        return read_spec(spec.model, config.model_type, tokenizer, chat=chat, pictures=pictures)
    except RecipeError:
        raise
    except (OSError, KeyError, TypeError, ValueError, ImportError) as error:
        raise RecipeError(f"backbone.model {spec.model}: its processor cannot be opened: {reason_of(error)}") from None


@torch.no_grad()
def take_over(model: Any, reader: Reader, whole: Any, where: str) -> None:
    """How `whole` begins, pads and ends what it writes; RecipeError where pictures or words are not read and written as it does it."""
    reader.check(where, model.model.backbone.arguments)
    ends = whole.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    ends = list(dict.fromkeys([*ends, reader.answer_edges[1][-1], reader.tokenizer.eos_token_id]))
    given = {name: getattr(whole.generation_config, name) for name in ENDS[1:] if getattr(whole.generation_config, name) is not None}
    model.generation_config.update(eos_token_id=ends, **{"pad_token_id": reader.tokenizer.pad_token_id, **given})
    ids = torch.tensor([reader.tokenizer("what is in the picture", add_special_tokens=False)["input_ids"]])
    trains = model.training
    expected = whole.float()(input_ids=ids).logits
    alone = model.eval().model.backbone.read(ids, torch.ones_like(ids, dtype=torch.bool))  # past any fusion
    found = model.word_logits(alone.values)[..., : expected.shape[-1]]
    model.train(trains)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise RecipeError(f"backbone.model {where}: {whole.config.model_type} turns its output into words in a way of its own")
