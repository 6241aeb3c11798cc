"""ChiasmModel: encoders and connectors -> streams, met by the headless backbone through a fusion.

Decisions that are not obvious:
- `encode` runs once per distinct picture or clip; `route` then says which row of text reads which of them, so that several texts share one.
- A fusion reaches the backbone's layers by forward pre-hooks on its own layer list; the backbone's module tree stays untouched.
- An argument that the model does not know is a TypeError. In this field it is usually dropped without a word.

Letters: U units (distinct pictures or clips), K items per row, R rows, T text tokens, L stream tokens, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import TransformersKwargs

from chiasm import components
from chiasm.adapters import add_adapters
from chiasm.components import did_you_mean
from chiasm.config import ChiasmConfig
from chiasm.connectors.base import read_prompt
from chiasm.decoding import DECODING, DecodingPass
from chiasm.embedding import MediaFeatures
from chiasm.fusion.base import BackboneShape, StreamShape, shown, visible_at
from chiasm.fusion.hybrid import build as build_fusion
from chiasm.fusion.interleaving import reach
from chiasm.outputs import ChiasmOutput
from chiasm.processing import argument, build_modalities
from chiasm.types import BadInput, Fused, RecipeError, Step, Streams, Tokens


@dataclass(slots=True)
class Call:
    """What the layer hooks need during one pass."""

    streams: Streams
    step: Step
    memory: Tokens | None = None


class ChiasmPreTrainedModel(PreTrainedModel):
    """Shared by both classes; parts initialise their own weights when they are built."""

    config: ChiasmConfig
    config_class = ChiasmConfig
    base_model_prefix = "model"
    input_modalities = ["image", "audio", "video", "text"]
    _supports_sdpa = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]

    def _init_weights(self, module: nn.Module) -> None:
        return


class ChiasmModel(MediaFeatures, DecodingPass, ChiasmPreTrainedModel):
    """Encoders, connectors, fusion and the headless backbone."""

    _keys_to_ignore_on_load_unexpected = [r"^heads\.", "^final_logits_bias$"]  # in a whole model's checkpoint; there is no head here
    encoders: Any  # nn.ModuleDict of Encoder
    connectors: Any  # nn.ModuleDict of Connector

    def __init__(self, config: ChiasmConfig):
        super().__init__(config)
        modalities = build_modalities(config.inputs)
        kind = components.find("backbone", config.backbone["kind"])
        options = kind.Options(**config.backbone.get("options", {}))
        self.language_model = kind.build(options, config.text_config)
        add_adapters(kind(options, self.language_model).adapted, config.backbone.get("lora"), "backbone")
        width = self.language_model.get_input_embeddings().weight.shape[1]
        self.encoders, self.connectors = nn.ModuleDict(), nn.ModuleDict()
        shapes: dict[str, StreamShape] = {}
        for name, spec in config.encoders.items():
            self.encoders[name] = encoder = build_encoder(spec, modalities[name])
            add_adapters(encoder, spec.get("lora"), f"encoders.{name}")
            link = components.find("connector", spec["connector"]["type"])
            link_options = link.Options(**{k: v for k, v in spec["connector"].items() if k != "type"})
            self.connectors[name] = connector = link(link_options, encoder.width, width)
            if connector.reads_text and not kind.reads_text:
                raise RecipeError(
                    f"encoders.{name}.connector: it reads the prompt's text, and this backbone has none; take one that reads text"
                )
            places = encoder.has_positions or connector.has_positions
            shapes[name] = StreamShape(connector.num_tokens(encoder.num_tokens), places)
        self.shapes = shapes
        self.backbone_kind, self.backbone_options = kind, options
        backbone = self.backbone
        shape = BackboneShape(
            width=width,
            num_layers=backbone.sizes.num_hidden_layers,
            num_heads=backbone.sizes.num_attention_heads,
            causal=backbone.one_way,
            embedding_std=backbone.embedding_std,
            has_cross_attention=bool(backbone.cross_attentions),
            takes_positions=backbone.takes_positions,
        )
        self.fusion = build_fusion(config.fusion, shape, shapes)
        if config.marker_ids and kind.has_encoder and backbone.one_way:
            raise RecipeError("fusion.see: what a decoder writes stands after the whole prompt; use see: all, or backbone.side: encoder")
        self._call: Call | None = None
        for layer in self.fusion.layers:
            self.backbone.layers[layer].register_forward_pre_hook(partial(self._meet, layer), with_kwargs=True)
        for attention in () if kind.has_encoder else backbone.cross_attentions:  # a decoder always has its prompt to read
            attention.register_forward_hook(self._silence_absent)
        self.post_init()

    @property
    def backbone(self) -> Any:
        """The Backbone that drives `language_model`; a plain object, so that module names are transformers' own."""
        return self.backbone_kind(self.backbone_options, self.language_model)

    @property
    def max_length(self) -> int:
        """The longest sequence the backbone has positions for."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None) or 2**30

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    # ---- streams

    def encode(self, pool: Mapping[str, Mapping[str, Tensor]]) -> Streams:
        """{input: {tensor: [U, ...]}} -> {input: Tokens of U units}; tensors called `features` are an encoder's output already.

        A connector that reads the prompt ends its work in `forward`, once a row's text is known.
        """
        streams = {}
        for name, tensors in pool.items():
            tokens = self.encode_features(name, tensors)
            streams[name] = self.connectors[name](tokens)
        return streams

    def encode_features(self, name: str, tensors: Mapping[str, Tensor]) -> Tokens:
        """One input's encoder alone, without its connector. A frozen encoder builds no graph."""
        if "features" in tensors and "features" not in self.encoders[name].modality.tensors:
            mask = tensors["features_mask"]
            grid = tuple(tensors["features_grid"][0].tolist()) if "features_grid" in tensors else None
            return Tokens(tensors["features"].to(self.dtype), mask, item=torch.zeros_like(mask, dtype=torch.long), grid=grid)
        trains = any(p.requires_grad for p in self.encoders[name].parameters())
        with contextlib.nullcontext() if trains else torch.no_grad():
            tokens = self.encoders[name](**tensors)
        if self.dtype != torch.float32:  # an encoder without weights hands on what it was given
            tokens = replace(tokens, values=tokens.values.to(self.dtype))
        return tokens

    def route(self, streams: Streams, inputs: Mapping[str, Any], rows: int) -> Streams:
        """Give each row its units by `NAME_index` [R, K] (-1: absent); without an index, row r reads unit r."""
        routed = {}
        for name, tokens in streams.items():
            index = inputs.get(f"{name}_index")
            if index is None:
                if len(tokens.values) != rows:
                    raise ValueError(
                        f"{name}: {len(tokens.values)} item(s) for {rows} row(s); pass {name}_index [rows, items] to say which reads which"
                    )
                routed[name] = replace(tokens, memo={})  # keys and values last for one generation
                continue
            values = torch.cat([tokens.values, torch.zeros_like(tokens.values[:1])])  # the last unit is "absent"
            mask = torch.cat([tokens.mask, torch.zeros_like(tokens.mask[:1])])
            if index.shape[1] == 1:
                share = torch.where(index[:, 0] < 0, len(values) - 1, index[:, 0])
                item = None if tokens.item is None else torch.cat([tokens.item, tokens.item.new_zeros(1, tokens.item.shape[1])])
                routed[name] = Tokens(values, mask, share=share, item=item, grid=tokens.grid)
            else:
                length = tokens.values.shape[1]
                item = torch.arange(index.shape[1], device=index.device).repeat_interleave(length).expand(len(index), -1)
                routed[name] = Tokens(values[index].flatten(1, 2), mask[index].flatten(1, 2), item=item)  # index -1 is the last unit
        unseen = [name for name in self.fusion.inputs if name not in routed] if self.fusion.shows_absent else []
        return routed | {name: self.connectors[name].nothing(rows, dtype=self.dtype, device=self.device) for name in unseen}

    # ---- the pass

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        streams: Streams | None = None,
        prompt_lengths: Tensor | None = None,
        **tensors: Any,
    ) -> ChiasmOutput:
        """Streams are routed Tokens; raw tensors (pixel_values, ...) are encoded and routed here.

        prompt_lengths [R]: of a causal text, how many visible tokens streams may read. Without it: all that fills a cache, else none.
        An encoder-decoder also takes decoder_input_ids, decoder_attention_mask and encoder_outputs; see `decode`.
        """
        decoding = {name: tensors.pop(name, None) for name in DECODING} if self.backbone_kind.has_encoder else {}
        given = next((g for g in (input_ids, inputs_embeds, (decoding.get("encoder_outputs") or [None])[0]) if g is not None), None)
        if given is None:
            raise TypeError("forward needs input_ids or inputs_embeds")
        pool, rest = self.pool_of(tensors)
        if streams is None:
            streams = self.route(self.encode(pool), tensors, len(given))
        cache = {"past_key_values": past_key_values, "use_cache": bool(use_cache)}
        if self.backbone_kind.has_encoder:
            if position_ids is not None:
                raise TypeError("position_ids: an encoder-decoder counts its positions itself; leave them out")
            return self.decode(input_ids, attention_mask, inputs_embeds, streams, **decoding, **cache, **rest)
        values = self.backbone.embed(input_ids, len(given)) if inputs_embeds is None else inputs_embeds
        packed = "attention_instances" in rest
        step = self.step(
            values, attention_mask, self.placeholders(input_ids), streams, **cache, prompt_lengths=prompt_lengths, packed=packed
        )
        step.trace = {} if rest.get("output_attentions") else None
        step.reach = self.reach(input_ids, streams, step)
        text = Tokens(values, step.mask[:, -values.shape[1] :])
        placed = self.fusion.place(read_prompt(self.connectors, streams, text, step))
        text = self.fusion.before(text, placed, step)
        memory = self.fusion.memory(placed, step)
        position_ids = position_ids if step.positions is None else step.positions
        if self.backbone_kind.reads:
            rest["input_ids"] = input_ids
        with self._during(placed, step, memory) as call:
            output = self.backbone.run(text.values, step.mask, memory, position_ids=position_ids, **cache, **rest)
            placed = call.streams
        fused = self.after(output, placed, step)
        return ChiasmOutput(
            last_hidden_state=fused.branches["text"].values,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
            fused=fused,
        )

    def after(self, output: Any, placed: Streams, step: Step) -> Fused:
        """What the tasks get of the backbone's output."""
        last = output.last_hidden_state
        fused = self.fusion.after(Tokens(last, step.mask[:, -last.shape[1] :]), placed, step)
        fused.trace |= step.trace or {}
        fused.words = fused.branches["text"].mask
        for place in step.placeholders.values():
            fused.words = fused.words & ~place
        return fused

    def step(
        self,
        given: Tensor,
        attention_mask: Tensor | None,
        placeholders: Mapping[str, Tensor],
        streams: Streams,
        *,
        past_key_values: Any = None,
        use_cache: bool = False,
        prompt_lengths: Tensor | None = None,
        packed: bool = False,
    ) -> Step:
        """What hooks must know of a pass over `given` [R, T, ...]: what is real, what streams may read, what is cached.

        packed: a row holds several texts, as a paged engine has them, and may be longer than one may be.
        """
        offset = past_key_values.get_seq_length() if past_key_values is not None else 0
        rows, length = given.shape[:2]
        whole = (rows, offset + length)
        mask = torch.ones(whole, dtype=torch.bool, device=given.device) if attention_mask is None else attention_mask.bool()
        if mask.shape[1] > self.max_length and not packed:
            raise BadInput(
                "too_long",
                f"a text of {mask.shape[1]} tokens is longer than the backbone's {self.max_length} positions; "
                "shorten it or raise max_position_embeddings",
            )
        caching = past_key_values is not None or use_cache
        readable = self.readable(mask, prompt_lengths, offset=offset, caching=caching)
        seen = torch.cat([mask[:, :-length], self.see(mask[:, -length:], placeholders, streams)], 1) if placeholders else mask
        return Step(mask=seen, placeholders=placeholders, readable=readable, offset=offset, generating=caching and not self.training)

    def pool_of(self, tensors: Mapping[str, Any]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Keyword arguments -> (pool by input, what goes on to the backbone); an unknown one is a TypeError with the nearest name."""
        pool: dict[str, dict[str, Tensor]] = {}
        rest: dict[str, Any] = {}
        known, own = self.arguments(), self.backbone.arguments
        for key, value in tensors.items():
            if key in own:
                rest |= {} if value is None else {key: value}
            elif key in known:
                name, tensor = known[key]
                if tensor and value is not None:
                    pool.setdefault(name, {})[tensor] = value
            elif key in TransformersKwargs.__annotations__ or key in ("cache_position", "return_dict", "logits_to_keep"):
                if key in ("output_attentions", "output_hidden_states") and value is not None:
                    rest[key] = value
            elif key == "attention_instances":  # vLLM's, which its attention function reads
                rest[key] = value
            elif value is not None:
                raise TypeError(f"unknown argument '{key}'{did_you_mean(key, [*known, *own, 'input_ids', 'attention_mask', 'labels'])}")
        for given in pool.values():
            if "input_values" in given:
                given.setdefault("input_values_mask", torch.ones_like(given["input_values"], dtype=torch.bool))
        return pool, rest

    def arguments(self) -> dict[str, tuple[str, str]]:
        """Every media argument that forward takes: name -> (input, tensor name; "" for the index)."""
        found: dict[str, tuple[str, str]] = {}
        for name, encoder in self.encoders.items():
            for tensor in encoder.modality.tensors:
                found[argument(self.config.inputs, name, tensor)] = (name, tensor)
            found[f"{name}_index"] = (name, "")
        return found

    def placeholders(self, input_ids: Tensor | None) -> dict[str, Tensor]:
        """Input -> [R, T] where its tokens go."""
        if input_ids is None:
            return {}
        return {name: input_ids == token for name, token in self.config.placeholder_ids.items()}

    def reach(self, input_ids: Tensor | None, streams: Streams, step: Step) -> dict[str, tuple[Tensor, Tensor]]:
        """Input whose places are marked -> which of its items each text token may see; nothing where there are no token ids."""
        if input_ids is None:
            return {}
        markers = {name: input_ids.eq(token) for name, token in self.config.marker_ids.items() if name in streams}
        return {name: reach(places, streams[name], step) for name, places in markers.items()}

    def see(self, mask: Tensor, placeholders: Mapping[str, Tensor], streams: Streams) -> Tensor:
        """[R, T] the mask without placeholders whose token is not visible (an absent picture, the padding of a clip)."""
        for name, place in placeholders.items():
            visible = torch.zeros_like(mask)
            if name in streams:
                rows = self.connectors[name].seen(streams[name])  # [R, L]
                visible = visible_at(shown(rows) if self.fusion.shows_absent else rows, place)
            mask = mask & (~place | visible)
        return mask

    def readable(self, mask: Tensor, prompt_lengths: Tensor | None, *, offset: int, caching: bool) -> Tensor | None:
        """[R, T] the tokens that streams may read without telling a token about later ones; None: all."""
        if not self.backbone_kind.causal or (prompt_lengths is None and caching and not offset):
            return None
        if prompt_lengths is None or offset:
            return torch.zeros_like(mask[:, offset:])
        return mask & (mask.long().cumsum(1) <= prompt_lengths.unsqueeze(1))

    @contextlib.contextmanager
    def _during(self, placed: Streams, step: Step, memory: Tokens | None = None) -> Generator[Call]:
        """While the backbone runs, its layers' hooks find here what they need."""
        self._call = call = Call(placed, step, memory)
        try:
            yield call
        finally:
            self._call = None

    def _meet(
        self, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The pre-hook of one backbone layer."""
        if self._call is None:
            return None
        values = args[0] if args else kwargs["hidden_states"]
        text = Tokens(values, self._call.step.mask[:, -values.shape[1] :])
        text, self._call.streams = self.fusion.between(layer, text, self._call.streams, self._call.step)
        return ((text.values, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": text.values})

    def _silence_absent(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """The hook of the backbone's own cross-attentions: a row with nothing to read gets exactly 0, or, from one that adds what it
        read to its input itself (BERT's), that input."""
        if self._call is None or self._call.memory is None:
            return None
        present = self._call.memory.present[:, None, None]
        return torch.where(present, output[0], args[0]) if hasattr(module, "self") else output[0] * present, *output[1:]


def build_encoder(spec: Mapping[str, Any], modality: Any) -> Any:
    """An Encoder from a config entry {type, options, config}."""
    kind = components.find("encoder", spec["type"])
    network = dict(spec["config"]) if spec.get("config") else None
    config = AutoConfig.for_model(network.pop("model_type"), **network) if network else None
    return kind(kind.Options(**spec.get("options", {})), config, modality)
