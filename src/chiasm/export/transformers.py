"""`--to transformers`: the checkpoint of an architecture that transformers has itself, with equal logits, or the reason why there is none.

Two of them can hold a run: VisionEncoderDecoder (a vision transformer, a linear connector, GPT-2 reading it with its own cross-attention)
and LLaVA (a vision transformer, two linear layers, its tokens in front of or inside the text of a decoder without learned positions).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from chiasm.export.names import LLAVA, VISION_ENCODER_DECODER, renamed
from chiasm.processing import placeholder
from chiasm.types import ChiasmError

TOLERANCE = 1e-4  # of the logits' size
RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
INSTEAD = "AutoModelForMultimodalLM loads the run's model folder after `import chiasm`, and --to hub writes one for others"


def write(run: Any, folder: Path, _: Path) -> tuple[list[str], dict[str, Any], list[str]]:
    """Write the first architecture that can hold the run, load it again and compare its logits."""
    reasons = {name: why_not(run.model) for name, (why_not, _) in ARCHITECTURES.items()}
    name = next((name for name, reason in reasons.items() if reason is None), None)
    if name is None:
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ChiasmError(f"transformers has no architecture for this run ({said}); {INSTEAD}")
    notes = ARCHITECTURES[name][1](run, folder)
    difference = compared(run.model, type_of(name).from_pretrained(folder).eval(), name)
    lines = [f"wrote {name}; its logits differ from the run's by at most {difference:.1e}", *notes]
    return lines, {"architecture": name, "max_difference": difference, "notes": notes}, [f"{name}.from_pretrained(FOLDER)   in Python"]


def type_of(name: str) -> Any:
    return getattr(transformers, name)


def single_image(model: Any) -> str | None:
    """Why a model is not one picture input and text; None where it is."""
    streams = [spec["modality"] for spec in model.config.inputs.values() if spec["modality"] != "text"]
    if streams != ["image"]:
        return f"it takes one image beside the text, and this run reads {', '.join(streams) or 'text alone'}"
    if model.model.backbone_kind.reads:
        return "it has a picture's tokens from an encoder of its own, and this run's backbone reads pictures itself"
    if model.lm_head is None:
        return "it writes text, and this run's backbone does not"
    parts = [model.config.backbone, *model.config.encoders.values()]
    if any("lora" in part for part in parts):
        return "it has no low-rank adapters (train: lora)"
    if model.config.backbone.get("quantize"):
        return "it has full weights, and this run's backbone has packed ones (backbone.quantize)"
    encoder = next(iter(model.model.encoders.values()))
    if not hasattr(encoder.network.config, "patch_size") or encoder.options.grid:
        return f"it needs a vision transformer, and this run's encoder is {encoder.network.config.model_type}"
    return None


def why_not_placed(model: Any) -> str | None:
    """Why what the fusion does to the tokens has no place there: a learned vector added to all of them has, in the connector's bias."""
    placing = model.fusion.placing[next(iter(model.model.encoders))]
    each = placing.position is not None and len(placing.position) > 1
    if each or placing.absent is not None or any(True for _ in placing.norm.parameters()):
        return "it adds nothing to the tokens; positions: learned, normalize and absent: learned do"
    return None


def why_not_vision_encoder_decoder(model: Any) -> str | None:
    if (reason := single_image(model)) is not None:
        return reason
    fusion, encoder = model.config.fusion, next(iter(model.config.encoders.values()))
    text, vision = model.config.get_text_config(), next(iter(model.model.encoders.values()))
    if fusion["type"] != "cross_attention" or fusion.get("weights") != "backbone":
        return "it has fusion: cross_attention with weights: backbone"
    if text.model_type != "gpt2":
        return f"the names of {text.model_type} are not known here, those of gpt2 are"
    if encoder["connector"]["type"] != "linear":
        return f"its connector is linear, this run's is {encoder['connector']['type']}"
    if vision.options.layer != -1 or not vision.options.class_token:
        return "it reads the last layer with its class token (layer: -1, class_token: true)"
    return why_not_placed(model)


def why_not_llava(model: Any) -> str | None:
    if (reason := single_image(model)) is not None:
        return reason
    fusion, encoder = model.config.fusion, next(iter(model.config.encoders.values()))
    if fusion["type"] != "early" or not fusion.get("counted", True):
        return "it has fusion: early"
    if encoder["connector"]["type"] != "mlp" or encoder["connector"].get("hidden"):
        return "its connector is mlp of the backbone's width"
    if not model.model.backbone_kind.causal or hasattr(model.model.language_model, "wpe"):
        return (
            f"it does not run on a {model.config.get_text_config().model_type} backbone; one with rotary positions (llama, qwen3) it does"
        )
    return why_not_placed(model)


def write_vision_encoder_decoder(run: Any, folder: Path) -> list[str]:
    """VisionEncoderDecoder. Where both halves are of one width it has no projection: ours goes into the keys and values that read it."""
    model, name = run.model, next(iter(run.model.config.encoders))
    encoder, decoder = model.model.encoders[name].network.config, model.config.get_text_config()
    halves: dict[str, Any] = {
        "encoder": encoder.to_dict(),
        "decoder": {**decoder.to_dict(), "is_decoder": True, "add_cross_attention": True},
    }
    config = VisionEncoderDecoderConfig(**halves)
    begin = (run.processor.start_ids or [decoder.bos_token_id])[0]
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = begin, run.processor.pad_id, run.processor.end_id
    config.tie_word_embeddings = False
    weights = renamed(placed(model, name, "layer.bias"), VISION_ENCODER_DECODER, name)
    if not any(key.startswith("enc_to_dec_proj.") for key in VisionEncoderDecoderModel(config).state_dict()):
        fold(weights)
    theirs = VisionEncoderDecoderModel(config)
    load(theirs, weights, unused=("encoder.pooler.",))
    theirs.generation_config.update(decoder_start_token_id=begin, eos_token_id=run.processor.end_id, pad_token_id=run.processor.pad_id)
    theirs.save_pretrained(folder)
    run.processor.tokenizer.save_pretrained(folder)
    return [*image_processor(run, name, folder), "the prompt is given as decoder_input_ids, begun as the tokenizer's bos"]


def write_llava(run: Any, folder: Path) -> list[str]:
    model, name = run.model, next(iter(run.model.config.encoders))
    vision, options = model.model.encoders[name], model.model.encoders[name].options
    text = model.config.get_text_config()
    config = LlavaConfig(
        vision_config=vision.network.config.to_dict(),
        text_config=text.to_dict(),
        image_token_index=model.config.placeholder_ids[name],
        projector_hidden_act="gelu_pytorch_tanh",
        vision_feature_select_strategy="full" if options.class_token else "default",
        vision_feature_layer=options.layer,
        image_seq_length=run.processor.placeholder_counts[name],
        tie_word_embeddings=model.config.tie_word_embeddings,
    )
    theirs = LlavaForConditionalGeneration(config)
    load(theirs, renamed(placed(model, name, "layers.2.bias"), LLAVA, name))
    theirs.generation_config.update(**{key: getattr(text, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")})
    theirs.generation_config.suppress_tokens = [config.image_token_index]
    theirs.save_pretrained(folder)
    notes = image_processor(run, name, folder)
    if not notes:
        LlavaProcessor(
            image_processor_of(run, name),
            run.processor.tokenizer,
            patch_size=vision.network.config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=1,
            image_token=placeholder(name),
            chat_template=run.processor.chat_template,
        ).save_pretrained(folder)
    else:
        run.processor.tokenizer.save_pretrained(folder)
    return notes


ARCHITECTURES: dict[str, tuple[Callable[[Any], str | None], Callable[[Any, Path], list[str]]]] = {
    "VisionEncoderDecoderModel": (why_not_vision_encoder_decoder, write_vision_encoder_decoder),
    "LlavaForConditionalGeneration": (why_not_llava, write_llava),
}


def placed(model: Any, name: str, bias: str) -> dict[str, Tensor]:
    """The weights of encoder, connector, backbone and word head, copied; what the fusion adds to every token is in the connector's bias."""
    without = ("heads.", "model.fusion.", "final_logits_bias")
    weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items() if not key.startswith(without)}
    position = model.fusion.placing[name].position
    if position is not None:
        weights[f"model.connectors.{name}.{bias}"] += position.detach().cpu()[0]
    return weights


def load(theirs: Any, weights: dict[str, Tensor], unused: tuple[str, ...] = ()) -> None:
    """Fill their model; what it has and never uses (`unused`) becomes 0."""
    have = theirs.state_dict()
    for name in have:
        if name.startswith(unused) and unused:
            weights[name] = torch.zeros_like(have[name])
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ChiasmError(
            f"the weights do not fit: {len(missing)} missing, {len(unexpected)} too many, first '{[*missing, *unexpected][0]}'"
        )


def fold(weights: dict[str, Tensor]) -> None:
    """x -> W x + b, then keys and values C (.) + c, as one step: C W and C b + c. GPT-2 keeps its kernels transposed, [in, out]."""
    scale, shift = weights.pop("enc_to_dec_proj.weight"), weights.pop("enc_to_dec_proj.bias")
    for name in [name for name in weights if name.endswith("crossattention.c_attn.weight")]:
        kernel, bias = weights[name], name.replace("weight", "bias")
        weights[bias] = weights[bias] + shift @ kernel
        weights[name] = scale.T @ kernel


def image_processor_of(run: Any, name: str) -> Any:
    """transformers' image processor with this input's settings; None for what it has no settings for."""
    options = run.processor.modalities[name].options
    if options.resize == "pad" or options.size == "original":
        return None
    height, width = (options.size, options.size) if isinstance(options.size, int) else options.size
    given: dict[str, Any] = {"image_mean": list(options.mean), "image_std": list(options.std), "resample": RESAMPLE[options.resample]}
    if options.resize == "squash":
        return transformers.ViTImageProcessorPil(size={"height": height, "width": width}, **given)
    crop = {"height": height, "width": width}
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": min(height, width)}, crop_size=crop, **given)


def image_processor(run: Any, name: str, folder: Path) -> list[str]:
    """Save the image processor; what there is to say where there is none."""
    found = image_processor_of(run, name)
    if found is None:
        return [f"no image processor was written: inputs.{name} pads or keeps sizes; make pixel_values with the run's own processor"]
    found.save_pretrained(folder)
    return []


@torch.no_grad()
def compared(ours: Any, theirs: Any, name: str) -> float:
    """The largest difference of logits on random pictures and texts; ChiasmError where it is more than rounding."""
    generator = torch.Generator().manual_seed(0)
    image, ours = next(iter(ours.config.encoders)), ours.to("cpu")
    size = ours.model.encoders[image].network.config.image_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    pixels = torch.randn(2, 3, *sides, generator=generator)
    special = {*ours.config.placeholder_ids.values()}
    words = torch.tensor([i for i in range(ours.get_input_embeddings().weight.shape[0]) if i not in special])
    ids = words[torch.randint(len(words), (2, 6), generator=generator)]
    if name == "VisionEncoderDecoderModel":
        found = theirs(pixel_values=pixels, decoder_input_ids=ids).logits
    else:
        run = torch.full((2, theirs.config.image_seq_length), ours.config.placeholder_ids[image])
        ids = torch.cat([ids[:, :1], run, ids[:, 1:]], 1)
        found = theirs(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    wanted = ours(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    difference = float((found - wanted).abs().max())
    if difference > TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise ChiasmError(f"{name} does not compute the same: logits differ by {difference:.1e}; {INSTEAD}")
    return difference
