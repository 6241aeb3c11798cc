"""Recipe -> processor and model: fresh architectures by `arch`, pretrained ones by name with every weight accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
)

from chiasm import components
from chiasm.backbones.mask_head import take_mask_heads
from chiasm.chat_template import chat_template
from chiasm.components import did_you_mean
from chiasm.config import ChiasmConfig
from chiasm.framing import decoding_tokens, full_precision, text_layout, tie_special_tokens
from chiasm.fusion.hybrid import parse as parse_fusion
from chiasm.loading import (
    WEIGHTS,
    at_random,
    from_checkpoint,
    listed,
    may_be_missing,
    more_layers,
    refuse_incomplete,
    refuse_missing,
    refuse_shape,
    refuse_surplus,
)
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.model import ChiasmForConditionalGeneration, without_bars
from chiasm.preprocessing import encoder_config, wanted_options
from chiasm.processing import ChiasmProcessor, build_modalities, placeholder
from chiasm.quantized import BLOCK, quantize
from chiasm.recipe import BackboneSpec, EncoderSpec, LoraTrain, Recipe, TokenizerSpec
from chiasm.recipe_check import backbone_kind
from chiasm.recipe_errors import RecipeProblems, explain
from chiasm.tasks.listed import check_tasks, declare_tasks
from chiasm.types import RecipeError, Sample
from chiasm.whole import inputs_read, keep_sequence, read_checkpoint, take_over

ADDED = re.compile(r"crossattention|cross_attn")  # weights of ours that no checkpoint has
LATENT_DEFAULT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}


def build(recipe: Recipe, samples: Sequence[Sample], texts: Iterable[str] = ()) -> tuple[ChiasmForConditionalGeneration, ChiasmProcessor]:
    """A recipe -> (model, processor), deterministic in recipe.train.seed.

    `samples` are raw training rows from which tables, labels and scales are learned; `texts` train a fresh tokenizer.
    """
    torch.manual_seed(recipe.train.seed)
    kind_name, text_config = backbone_config(recipe.backbone)
    kind = components.find("backbone", kind_name)
    read = inputs_read(recipe, kind)
    inputs = declare_inputs(recipe, samples, read)
    streams = [name for name, spec in inputs.items() if spec["modality"] != "text" and name not in read]
    modalities = build_modalities(inputs)
    encoders = {name: encoder_entry(recipe, name, modalities[name]) for name in streams}
    options = backbone_options(recipe, kind, text_config)
    fusion = {"type": recipe.fusion.type, **recipe.fusion.options}
    fusion_kind, fusion_options = parse_fusion(fusion)
    check_tasks(recipe, kind_name, fusion_kind, read)
    scattered = fusion_kind.scatters(fusion_options, streams)
    marked = fusion_kind.marks(fusion_options, streams)
    keep_sequence(recipe, kind, scattered, marked)
    tokenizer = build_tokenizer(recipe, [placeholder(name) for name in (*scattered, *marked)], texts, kind)
    whole = whole_model(recipe.backbone, text_config)
    starts = decoding_tokens(text_config, tokenizer, recipe.backbone, whole) if kind.has_encoder else {}
    sized = recipe.backbone.model or ("vocab_size" in recipe.backbone.options and isinstance(recipe.backbone.tokenizer, str))
    tie_special_tokens(text_config, tokenizer, resize=not sized)
    if kind.causal and fusion_kind.needs_cross_attention(fusion_options):
        text_config.add_cross_attention = True
    reading = read_checkpoint(recipe, text_config, tokenizer) if kind.reads else None
    config = ChiasmConfig(
        text_config=text_config.to_dict(),
        inputs=inputs,
        encoders=encoders,
        backbone={"kind": kind_name, "options": options, **lora_entry(recipe.backbone.train)},
        fusion=fusion,
        tasks=declare_tasks(recipe, samples),
        placeholder_ids={name: tokenizer.convert_tokens_to_ids(placeholder(name)) for name in scattered},
        marker_ids={name: tokenizer.convert_tokens_to_ids(placeholder(name)) for name in marked},
        tie_word_embeddings=bool(getattr(text_config, "tie_word_embeddings", True)) if whole is None else has_tied_head(whole),
    )
    model = ChiasmForConditionalGeneration(config)
    model.notes = load_pretrained(recipe, model, whole)
    with without_bars():
        take_mask_heads(model, recipe.backbone.model)
    counts = {name: token_count(model, name) for name in scattered} | dict.fromkeys(marked, 1)
    layout = text_layout(kind, text_config, tokenizer, model.model.backbone_options)
    layout |= {"absent": 1} if model.fusion.shows_absent else {}
    template = reading["template"] if reading else chat_template(list(model.tasks.values()), scattered, layout, tokenizer)
    processor = ChiasmProcessor(tokenizer, inputs=inputs, placeholder_counts=counts, layout=layout, reading=reading, chat_template=template)
    if model.generation_config is not None:
        model.generation_config.update(**starts, suppress_tokens=[*config.placeholder_ids.values(), *config.marker_ids.values()] or None)
    model.processor, processor.longest = processor, model.model.max_length
    if processor.reader is not None:
        take_over(model, processor.reader, whole, str(recipe.backbone.model))
    if recipe.backbone.quantize:
        pack(model, recipe.backbone.quantize)
    return model, processor


def declare_inputs(recipe: Recipe, samples: Sequence[Sample], read: Sequence[str] = ()) -> dict[str, Any]:
    """The config's `inputs`: the modality's options, completed by what a pretrained encoder wants, and what it learns from the data.

    Those in `read` go to the backbone as they are: its own processor brings them to size.
    """
    inputs: dict[str, Any] = {}
    for name, spec in recipe.inputs.items():
        if spec.modality == "text":
            inputs[name] = {"modality": "text", "options": dict(spec.options), "place": len(inputs)}
            continue
        kind = components.find("modality", spec.modality)
        wanted = wanted_options(recipe.encoder_for(name), spec.modality, f"encoders.{name}")
        wanted |= {"size": "original"} if name in read else {}
        modality = kind(kind.Options(**{**{k: v for k, v in wanted.items() if k in kind.Options.model_fields}, **spec.options}))
        modality.fit([modality.raw(sample.parts, name) for sample in samples])
        options = modality.options.model_dump(mode="json")
        inputs[name] = {"modality": spec.modality, "options": options, "state": modality.state(), "place": len(inputs)}
        inputs[name] |= {"read": True} if name in read else {}
    return inputs


# ---- backbone and tokenizer


def backbone_config(spec: BackboneSpec) -> tuple[str, PreTrainedConfig]:
    """(kind, transformers config) of the backbone; no model and no arch means latents."""
    if spec.model:
        config = full_precision(from_checkpoint(AutoConfig, spec.model, "backbone"))
    else:
        kinds = [components.find("backbone", name) for name in {*components.names("backbone"), *filter(None, [spec.kind])}]
        own = {key for kind in kinds for key in kind.Options.model_fields}
        given = {k: v for k, v in spec.options.items() if k not in own}
        config = AutoConfig.for_model(spec.arch or "bert", **{**({} if spec.arch else LATENT_DEFAULT), **given})
    if getattr(config, "activation_function", None) == "gelu_new":
        config.activation_function = "gelu_pytorch_tanh"  # the same values, fused: 5x faster
    name = spec.kind or (backbone_kind(config) if spec.model or spec.arch else "latent")
    components.find("backbone", name).check(config)
    return name, config


def backbone_options(recipe: Recipe, kind: Any, config: PreTrainedConfig) -> dict[str, Any]:
    """The backbone's own options; RecipeError for what its kind does not know, which a model's name alone did not tell."""
    spec = recipe.backbone
    for key in spec.options if spec.model else ():
        if key not in kind.Options.model_fields:
            raise RecipeError(f"backbone.{key}: {config.model_type} has no such key{did_you_mean(key, kind.Options.model_fields)}")
    try:
        kind.Options.model_validate(own := own_options(kind, spec.options))
    except ValidationError as error:
        raise RecipeProblems(explain(error, recipe.document, Recipe, at=("backbone",))) from None
    return own


def build_tokenizer(recipe: Recipe, placeholders: list[str], texts: Iterable[str], kind: Any) -> Any:
    """The pretrained tokenizer with placeholders added, or one learned from the training text."""
    spec = recipe.backbone
    masks = any(components.find("task", task.type).masks for task in recipe.tasks.values())
    if isinstance(spec.tokenizer, str) or (spec.tokenizer is None and spec.model):
        tokenizer = from_checkpoint(AutoTokenizer, str(spec.tokenizer or spec.model), "backbone")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if kind.generates and tokenizer.eos_token is None:
            tokenizer.eos_token = tokenizer.sep_token  # BERT's word for the end of a text
        mask = {"mask_token": "<mask>"} if masks and tokenizer.mask_token is None else {}
        if placeholders or mask:
            tokenizer.add_special_tokens({"additional_special_tokens": placeholders, **mask})
        return tokenizer
    settings = spec.tokenizer if isinstance(spec.tokenizer, TokenizerSpec) else TokenizerSpec(type="bpe")
    kind_name = settings.type if kind.reads_text else "words"
    return learn_tokenizer(texts, kind=kind_name, vocab_size=settings.vocab_size, placeholders=placeholders, mask=masks)


# ---- encoders


def encoder_entry(recipe: Recipe, name: str, modality: Any) -> dict[str, Any]:
    """The config's entry of one input's encoder: {type, options, config, connector}."""
    modality_name = recipe.inputs[name].modality
    spec = recipe.encoder_for(name) or EncoderSpec()
    kind = components.find("encoder", spec.type or modality_name)
    options, config = own_options(kind, spec.options), None
    if kind.needs_network:
        if not (spec.model or spec.arch):
            raise RecipeError(f"inputs.{name}: needs an encoder; write encoders.{modality_name}.model (a pretrained name) or .arch")
        config = encoder_config(spec, kind, modality)
        if spec.model and modality_name == "audio":
            options["extractor"] = from_checkpoint(AutoFeatureExtractor, spec.model, f"encoders.{name}").to_dict()
    connector = {"type": spec.connector.type, **spec.connector.options}
    return {
        "type": spec.type or modality_name,
        "options": options,
        "config": None if config is None else config.to_dict(),
        "connector": connector,
        **lora_entry(spec.train),
    }


def lora_entry(train: Any) -> dict[str, Any]:
    """The config's record of a part's adapters, from its `train:`; nothing where it has none."""
    return {"lora": train.lora.model_dump()} if isinstance(train, LoraTrain) else {}


def token_count(model: ChiasmForConditionalGeneration, name: str) -> int:
    """How many sequence places one item of an input takes."""
    count = model.model.shapes[name].num_tokens
    if count is None:
        raise RecipeError(
            f"inputs.{name}: early fusion needs a fixed number of tokens; set encoders.{name}.grid (image), encoders.{name}.tokens "
            f"(audio, features), or encoders.{name}.grid and inputs.{name}.frames (video), or use cross_attention (any text)"
        )
    return count


def own_options(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The keys of a section that are the component's own, not its network's."""
    return {k: v for k, v in options.items() if k in kind.Options.model_fields}


# ---- pretrained weights


def whole_model(spec: BackboneSpec, config: PreTrainedConfig) -> Any:
    """A pretrained encoder-decoder or vision-language model with its word head, whose conventions no config tells; else None."""
    if spec.model and components.find("backbone", spec.kind or backbone_kind(config)).reads:
        return word_model(AutoModelForImageTextToText, spec)
    return word_model(AutoModelForSeq2SeqLM, spec) if spec.model and config.is_encoder_decoder else None


def word_model(kind: Any, spec: BackboneSpec) -> Any:
    """A checkpoint with its word head, as transformers loads it."""
    whole, info = from_checkpoint(kind, where := str(spec.model), "backbone", **WEIGHTS)
    whole.at_random = refuse_incomplete("backbone", where, info, spec.allow_missing or (), whole.base_model_prefix)
    return whole.eval()


def pack(model: ChiasmForConditionalGeneration, how: str) -> None:
    """Quantise the backbone's loaded weights; a note tells of layers that stay as they are."""
    backbone = model.model.backbone
    left = quantize(backbone.adapted, backbone.cross_attentions, filled=True)
    model.config.backbone["quantize"] = how
    if left:
        model.notes.append(
            f"backbone.quantize: {len(left)} linear layer(s) stay in full, their rows are no multiple of {BLOCK}: {listed(left)}"
        )


def has_tied_head(whole: Any) -> bool:
    return whole.get_output_embeddings().weight is whole.get_input_embeddings().weight


def load_pretrained(recipe: Recipe, model: ChiasmForConditionalGeneration, whole: Any = None) -> list[str]:
    """Put pretrained weights into the freshly built parts; a missing, renamed or misshaped weight is refused by name, unless the part's
    allow_missing names it. Returns what started at random, a line for each part."""
    notes = []
    for name in model.model.encoders:
        spec = recipe.encoder_for(name)
        network = model.model.encoders[name].network
        if spec is not None and spec.model and network is not None:
            notes += load_network(network, spec, f"encoders.{name}")
    if (spec := recipe.backbone).model:
        notes += load_network(model.model.language_model, spec, "backbone", whole)
        if model.lm_head is not None and (not model.config.tie_word_embeddings or model.word_transform is not None):
            whole = word_model(AutoModelForCausalLM, spec) if whole is None else whole
            copy_rows(model.lm_head.weight, whole.get_output_embeddings().weight)
            notes += at_random(
                "backbone", str(spec.model), {key: model.lm_head.weight for key in whole.at_random if key == "lm_head.weight"}
            )
            if model.word_transform is not None:  # BERT's head
                copy_rows(model.lm_head.bias, whole.get_output_embeddings().bias)
                model.word_transform.load_state_dict(whole.cls.predictions.transform.state_dict())
        model.tie_weights()
        if whole is not None and model.config.is_encoder_decoder:
            take_word_head(model, whole)
    return notes


@torch.no_grad()
def take_word_head(model: ChiasmForConditionalGeneration, whole: Any) -> None:
    """An encoder-decoder's fixed bias of words; RecipeError where its logits then are not those of transformers' own model."""
    if model.final_logits_bias is not None:
        model.final_logits_bias[:, : whole.final_logits_bias.shape[1]] = whole.final_logits_bias
    middle = whole.config.vocab_size // 2  # ordinary words: special tokens stand at the ends
    ids = torch.arange(middle, min(middle + 8, whole.config.vocab_size)).unsqueeze(0)
    backbone, mask, trains = model.model.backbone, torch.ones_like(ids, dtype=torch.bool), model.training
    expected = whole.float()(input_ids=ids, decoder_input_ids=backbone.shifted(ids, mask)).logits
    found = model.eval().word_logits(backbone.read(ids, mask).values)[..., : expected.shape[-1]]
    model.train(trains)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise RecipeError(f"backbone.model: {whole.config.model_type} turns its output into words in a way of its own; use e.g. t5 or bart")


def load_network(network: Any, spec: EncoderSpec | BackboneSpec, part: str, whole: Any = None) -> list[str]:
    """Copy a checkpoint (`whole`, where it is open already) into `network`; rows added to a vocabulary start as the mean of the others.

    Returns a note about what the recipe allows to be missing and is.
    """
    where = str(spec.model)
    own = {key.replace(".base_layer.", "."): value for key, value in network.state_dict().items() if "lora_" not in key}
    if whole is not None:
        given, missing, unexpected = {k.removeprefix(f"{whole.base_model_prefix}."): v for k, v in whole.state_dict().items()}, [], []
    else:
        loaded, info = from_checkpoint(AutoModel, where, part, config=checkpoint_config(where, part, network.config), **WEIGHTS)
        for key, have, want in sorted(info["mismatched_keys"]):
            refuse_shape(part, where, key, want, have)
        given, missing, unexpected = loaded.state_dict(), info["missing_keys"], info["unexpected_keys"]
    if part.startswith("encoders") and not set(own) <= set(given):
        prefix = next((p for p in ("encoder.", "vision_model.") if all(p + key in given for key in own)), "")
        given = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
        missing = [key.removeprefix(prefix) for key in missing if key.startswith(prefix)]
    added = {key for key in own if ADDED.search(key)} if whole is None else set()
    fresh = sorted(key for key in missing if key in own and key not in added)
    absent = sorted(key for key in own if key not in given and key not in added)
    allowed = may_be_missing([*fresh, *absent], spec.allow_missing or ())
    lacking = [key for key in [*fresh, *absent] if key not in allowed]
    refuse_missing(part, where, lacking, unexpected, more_layers(lacking, own, network.config.to_dict()))
    refuse_surplus(part, where, own, unexpected)
    with torch.no_grad():
        for key, value in own.items():
            if key in given:
                if value.shape != given[key].shape and key not in embedding_names(network):
                    refuse_shape(part, where, key, value.shape, given[key].shape)
                copy_rows(value, given[key])
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RecipeError(f"{part}.model {where}: weight '{key}' has NaN or Inf")
    return at_random(part, where, {key: own[key] for key in [*allowed, *getattr(whole, "at_random", ())] if key in own})


def embedding_names(network: Any) -> set[str]:
    """The keys of the word embeddings, the only weights that may have more rows than in the checkpoint; an encoder-decoder shares them."""
    if not hasattr(network, "get_input_embeddings"):
        return set()
    halves = [network.get_encoder(), network.get_decoder()] if network.config.is_encoder_decoder else []
    words = [getattr(part.get_input_embeddings(), "weight", None) for part in (network, *halves)]
    return {name for name, p in network.named_parameters(remove_duplicate=False) if any(p is weight for weight in words)}


def checkpoint_config(where: str, part: str, own: PreTrainedConfig) -> PreTrainedConfig:
    """The checkpoint's own config, in the class of the part that is loaded (a CLIP's vision half, say)."""
    whole = from_checkpoint(AutoConfig, where, part)
    halves = [getattr(whole, half, None) for half in ("vision_config", "text_config")]
    return next((half for half in halves if type(half) is type(own)), whole)


def copy_rows(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy `source` into `target`; where the target has more rows (added tokens) they become the mean of the source's."""
    with torch.no_grad():
        target[: len(source)].copy_(source) if target.ndim else target.copy_(source)
        if target.ndim and len(target) > len(source):
            target[len(source) :] = source.mean(0)
