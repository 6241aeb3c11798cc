"""ChiasmForConditionalGeneration: the composite model with a language-model head and the tasks' heads, as transformers knows it.

Importing this module registers the classes, so that AutoConfig, AutoModel, AutoModelForMultimodalLM and AutoProcessor load a run's model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor, GenerationMixin
from transformers.modeling_outputs import ModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.utils import logging

from chiasm import components
from chiasm.composite import ChiasmModel, ChiasmPreTrainedModel
from chiasm.config import ChiasmConfig
from chiasm.decoding import DECODING
from chiasm.embedding import Embeddings
from chiasm.generation import Generation
from chiasm.outputs import ChiasmOutput
from chiasm.processing import ChiasmProcessor
from chiasm.types import Fused, RecipeError, Streams, Tokens


class ChiasmForConditionalGeneration(Embeddings, Generation, ChiasmPreTrainedModel, GenerationMixin):
    """ChiasmModel with a language-model head (where the backbone generates) and the tasks' heads."""

    accepts_loss_kwargs = False  # else the stock Trainer multiplies the loss by accumulation or world size

    def __init__(self, config: ChiasmConfig):
        super().__init__(config)
        self.model = ChiasmModel(config)
        embeddings = self.get_input_embeddings()
        words, width = embeddings.weight.shape
        transform = self.model.backbone.word_transform
        self.lm_head: nn.Linear | None = None
        if self.model.backbone_kind.generates:
            self.lm_head = nn.Linear(width, words, bias=transform is not None)
            self.word_transform: nn.Module | None = transform
        if self.lm_head is not None and config.tie_word_embeddings:
            name = next(f"{n}.weight" for n, m in self.model.named_modules() if m is embeddings)
            source = self.model.get_expanded_tied_weights_keys(all_submodels=True).get(name, name)
            self._tied_weights_keys = {"lm_head.weight": f"model.{source}"}
        self.final_logits_bias: Tensor | None  # BART's name for it, and a buffer as there: it does not train
        self.register_buffer("final_logits_bias", torch.zeros(1, words) if self.model.backbone.has_output_bias else None)
        self.tasks = build_tasks(config)
        for name, task in self.tasks.items():
            for side in task.reads if task.view == "towers" else ():
                if side in self.model.connectors and self.model.connectors[side].reads_text:
                    raise RecipeError(
                        f"tasks.{name}: the connector of {side} reads the prompt's text, and this task has none; use reads: none"
                    )
        heads = {name: task.head_of(words, width) for name, task in self.tasks.items()}
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})
        self.processor: ChiasmProcessor | None = None  # set by whoever builds or loads both
        self.notes: list[str] = []  # what was decided while it was built, for whoever trains it
        self.balance: nn.Module | None = None  # heads for each input alone, only while training with train.balance
        self.loss_weights: nn.Module | None = None  # of the tasks, only while training with train.loss_weights: learned
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.lm_head = new_embeddings

    @property
    def fusion(self) -> Any:
        return self.model.fusion

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> ModelOutput:
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_audio_features(self, input_values: Tensor, **kwargs: Any) -> ModelOutput:
        return self.model.get_audio_features(input_values, **kwargs)

    def parts(self) -> dict[str, nn.Module]:
        """What a recipe's `train:` names: part -> module. The tied head belongs to the backbone; its vision tower is a part inside it."""
        found: dict[str, nn.Module] = {}
        for name in self.model.encoders:
            found[f"encoders.{name}"] = self.model.encoders[name]
            found[f"encoders.{name}.connector"] = self.model.connectors[name]
        head = [] if self.lm_head is None else [self.lm_head, self.word_transform]
        found["backbone"] = nn.ModuleList([self.model.language_model, *(part for part in head if part is not None)])
        if media := self.model.backbone.media:
            found["backbone.vision"] = nn.ModuleList(media)
        found["fusion"] = self.model.fusion
        for name in self.heads:
            found[f"tasks.{name}"] = self.heads[name]
        return found

    # ---- what tasks ask of it

    def encode(self, pool: Mapping[str, Mapping[str, Tensor]]) -> Streams:
        return self.model.encode(pool)

    def encode_features(self, name: str, tensors: Mapping[str, Tensor]) -> Tokens:
        return self.model.encode_features(name, tensors)

    def fuse(self, inputs: Mapping[str, Tensor], streams: Streams) -> Fused:
        """A batch's text [R, T] with encoded streams -> the branches that heads read."""
        rows = len(inputs["input_ids"])
        routed = self.model.route(streams, inputs, rows)
        mask = inputs["attention_mask"]
        prompt = inputs.get("prompt_lengths", mask.sum(1))  # a task that writes nothing has only a prompt
        own = (*DECODING, *self.model.backbone.arguments)  # an encoder-decoder's target; what a vision-language model reads
        written = {name: inputs[name] for name in own if name in inputs}
        return self.model(input_ids=inputs["input_ids"], attention_mask=mask, streams=routed, prompt_lengths=prompt, **written).fused

    def word_logits(self, values: Tensor) -> Tensor:
        """[..., W] -> [..., V] by the word head, as the backbone's architecture has it."""
        assert self.lm_head is not None, "this backbone does not generate"
        scale = self.model.backbone.output_scale
        if self.word_transform is not None:
            values = self.word_transform(values)
        logits = self.lm_head(values if scale == 1.0 else values * scale)
        return logits if self.final_logits_bias is None else logits + self.final_logits_bias

    def text_logits(self, fused: Fused, chosen: Tensor | None = None, head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Logits of words [R, T, V], or [N, V] where `chosen` [R, T or the first of them] is True, by `head` instead of the word head if
        given; branches are mixed as log-probabilities."""
        found = []
        for name, tokens in fused.branches.items():
            if chosen is None:
                values = tokens.values if name == "text" else tokens.values[:, :1].expand_as(fused.branches["text"].values)
            else:
                values = tokens.values[:, : chosen.shape[1]][chosen] if name == "text" else tokens.values[:, 0][chosen.nonzero()[:, 0]]
            found.append((head or self.word_logits)(values))
        if len(found) == 1:
            return found[0]
        weights = branch_weights(fused)
        weights = weights[:, None, None] if chosen is None else weights[chosen.nonzero()[:, 0]].unsqueeze(1)  # [R, 1, 1, B] or [N, 1, B]
        stacked = torch.stack([logits.float().log_softmax(-1) for logits in found], -1)
        return torch.logsumexp(stacked + weights.clamp_min(1e-30).log(), -1)

    def head_logits(self, task: str, fused: Fused, *, mix: str) -> Tensor:
        """A task's head on every branch [R, out]; several branches are mixed by `mix`: as `probabilities` over the outputs (giving their
        logarithms), as the `chances` of each output (giving log-odds), or as `values`."""
        found = []
        for name, tokens in fused.branches.items():
            pooled = self.model.backbone.pool(tokens, fused.words) if name == "text" else tokens.pooled()
            found.append(self.heads[task](pooled))
        if len(found) == 1:
            return found[0]
        weights = branch_weights(fused).unsqueeze(1)  # [R, 1, branches]
        if mix == "values":
            return (torch.stack(found, -1) * weights).sum(-1)

        def mixed(logs: list[Tensor]) -> Tensor:
            return torch.logsumexp(torch.stack(logs, -1) + weights.clamp_min(1e-30).log(), -1)

        if mix == "chances":
            yes, no = ([functional.logsigmoid(sign * one.float()) for one in found] for sign in (1, -1))
            return mixed(yes) - mixed(no)
        return mixed([one.float().log_softmax(-1) for one in found])

    def alone(self, inputs: Mapping[str, Tensor], streams: Streams) -> dict[str, Tokens]:
        """Every input by itself, before any fusion: its routed stream after the connector; `text`: the prompt's word embeddings."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        found = {name: tokens for name, tokens in self.model.route(streams, inputs, len(ids)).items() if name in streams}
        for place in self.model.placeholders(ids).values():
            mask = mask & ~place
        return found | ({"text": Tokens(self.model.backbone.embed(ids, len(ids)), mask)} if self.model.backbone_kind.reads_text else {})

    def text_vector(self, ids: Tensor, mask: Tensor, *, through: str) -> Tensor:
        """Texts [N, T] -> [N, W]: the mean of their word embeddings, or the backbone's pooled output without any stream."""
        embedded = Tokens(self.model.backbone.embed(ids, len(ids)), mask.bool())
        if through == "embeddings":
            return embedded.pooled()
        return self.model.backbone.pool(self.model.backbone.read(ids, embedded.mask))

    # ---- what transformers asks of it

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        streams: Streams | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        **kwargs: Any,
    ) -> ChiasmOutput:
        """input_ids [R, T] and media tensors -> logits [R, T, V]; with `labels` [R, T] (-100: ignored) also the mean next-token loss.

        prompt_lengths [R]: how many visible tokens of each row a two-way fusion's streams may read; those before the first label, if
        not given. An encoder-decoder reads input_ids [R, S] and writes decoder_input_ids [R, T], which are the labels shifted right
        where they are not given; labels and logits stand for its T.

        Raises TypeError for any argument that the model does not read, naming the nearest one that it does.
        """
        media = {"pixel_values": pixel_values, "input_values": input_values, "encoder_outputs": encoder_outputs}
        written = {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        kwargs |= {k: v for k, v in {**media, **written}.items() if v is not None}
        if labels is not None and self.config.is_encoder_decoder:
            kwargs.setdefault("decoder_input_ids", self.model.shifted_labels(labels))
        elif labels is not None and prompt_lengths is None:
            seen = torch.ones_like(labels) if attention_mask is None else attention_mask[:, -labels.shape[1] :]
            prompt_lengths = (seen.bool() & ((labels != -100).cumsum(1) == 0)).sum(1)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            streams=streams,
            prompt_lengths=prompt_lengths,
            **kwargs,
        )
        if self.lm_head is None:
            return output
        fused: Fused = output.fused
        if isinstance(logits_to_keep, int) and logits_to_keep:
            text = fused.branches["text"]
            kept = Tokens(text.values[:, -logits_to_keep:], text.mask[:, -logits_to_keep:])
            fused = replace(fused, branches={**fused.branches, "text": kept})
        output.logits = self.text_logits(fused)
        if labels is not None:
            output.loss = self._mean_loss(output.logits, labels, kwargs.get("num_items_in_batch"))
        if torch.compiler.is_exporting():  # a graph gives tensors only
            return type(output)(**{f.name: getattr(output, f.name) for f in fields(output) if f.name != "fused"})
        return output

    def _mean_loss(self, logits: Tensor, labels: Tensor, count: Tensor | None) -> Tensor:
        """Cross-entropy over labels [R, T]: those of the same place where a decoder writes, of the next place in one text."""
        if not self.config.is_encoder_decoder:
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="mean" if count is None else "sum")
        return loss if count is None else loss / count


def build_tasks(config: ChiasmConfig) -> dict[str, Any]:
    """The tasks a config declares, with what they learned from the data."""
    declared = {name: spec["modality"] for name, spec in config.inputs.items()}
    tasks = {}
    for name, spec in config.tasks.items():
        kind = components.find("task", spec["type"])
        tasks[name] = kind(name, kind.Options(**spec.get("options", {})), declared)
        if spec.get("state"):
            tasks[name].load_state(spec["state"])
    return tasks


def branch_weights(fused: Fused) -> Tensor:
    """[R, branches] the mixing weights, equal where the fusion gives none."""
    if fused.mix is not None:
        return fused.mix
    values = fused.branches["text"].values
    return values.new_full((len(values), len(fused.branches)), 1 / len(fused.branches))


@contextlib.contextmanager
def without_bars() -> Generator[None]:
    """Without transformers' bars for loading and writing weights; downloads keep theirs."""
    before = logging.set_tqdm_hook(lambda factory, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


AutoConfig.register("chiasm", ChiasmConfig)
AutoModel.register(ChiasmConfig, ChiasmModel)
AutoModelForMultimodalLM.register(ChiasmConfig, ChiasmForConditionalGeneration)
AutoProcessor.register(ChiasmConfig, ChiasmProcessor)
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["chiasm"] = "ChiasmForConditionalGeneration"  # where `transformers serve` looks
