"""Write text: answers, captions, dialogue. The loss is taken on target tokens only, and so are the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from chiasm.tasks.base import LossParts, PromptedOptions, PromptedTask, pad
from chiasm.tasks.template import FIELD, Template, is_missing
from chiasm.types import Batch, Prediction, Sample, Streams


class Generate(PromptedTask):
    """Cross-entropy of the next token over the target "{answer}" given the prompt; greedy decoding unless `generation` says otherwise."""

    class Options(PromptedOptions):
        prompt: str | None = None
        """What the model reads, e.g. "Question: {question} Answer:". All text inputs in order, if not given."""
        target: str
        """What it writes, e.g. "{answer}"."""
        generation: dict[str, Any] = {}
        """Passed to transformers' generate: max_new_tokens, num_beams, do_sample, ..."""
        metrics: tuple[str, ...] = ("exact_match",)
        """How predictions are scored; the first is the primary."""

    writes: ClassVar[bool] = True

    def __init__(self, name: str, options: Any, inputs: Mapping[str, str]):
        super().__init__(name, options, inputs)
        self.target = Template(options.target, f"tasks.{name}.target", {}, extra=FIELD.findall(options.target))

    @property
    def targets(self) -> tuple[str, ...]:
        return self.target.fields

    @property
    def words(self) -> list[str]:
        return self.prompt.literals + self.target.literals

    def wants(self, sample: Sample) -> bool:
        texts = [name for name in self.prompt.fields if self.declared[name] == "text"]
        return super().wants(sample) and (not texts or any(not is_missing(sample.parts.get(name)) for name in texts))

    def collate(self, samples: Sequence[Sample], processor: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A target goes on its prompt, or is a text of its own that a decoder begins with one fixed token: there, that is its prompt."""
        prompts = self.prompts(samples, processor)
        texts = [self.target.render(sample.parts) if super(Generate, self).wants(sample) else None for sample in samples]
        apart = processor.target_edges
        before, start, close = apart or ([], [], [processor.end_id])
        lead = " " if self.prompt.pieces and not apart else ""
        if processor.reader is not None:
            lead, close = processor.reader.answer_edges
        encoded = processor.encode([lead + (text or "") for text in texts], user=True, target=apart is not None)
        answers = [[*start, *ids, *close] for ids in encoded]
        read = [before] * len(prompts) if apart else prompts
        ids, mask = pad([p + a for p, a in zip(read, answers, strict=True)], processor.pad_id)
        labels = torch.full_like(ids, -100)
        for row, (prompt, answer, text) in enumerate(zip(read, answers, texts, strict=True)):
            if text is not None:  # a row without a target is only predicted
                labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        targets = {"labels": labels, "texts": texts, "weight": float((labels[:, 1:] != -100).sum())}
        if not apart:
            return {"input_ids": ids, "attention_mask": mask, "prompt_lengths": torch.tensor([len(p) for p in prompts])}, targets
        prompt_ids, prompt_mask = pad(prompts, processor.pad_id)
        written = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        return {"input_ids": prompt_ids, "attention_mask": prompt_mask, **written}, targets

    def loss(self, model: Any, batch: Batch, streams: Streams) -> LossParts:
        logits, labels = self.labelled(model, batch, streams)
        total = functional.cross_entropy(logits.float(), labels, reduction="sum")
        with torch.no_grad():
            right = (logits.argmax(-1) == labels).float().mean()
        return LossParts(total, {"token_accuracy": right})

    def labelled(self, model: Any, batch: Batch, streams: Streams) -> tuple[Tensor, Tensor]:
        """(logits [labels, vocabulary], labels) at the positions that are predicted, and nowhere else."""
        fused = model.fuse(batch.inputs, self.given(streams))
        following = batch.targets["labels"][:, 1:]
        chosen = following != -100
        return model.text_logits(fused, chosen), following[chosen]

    def outputs(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        fused = model.fuse(batch.inputs, self.given(streams))
        labels = batch.targets["labels"][:, 1:]
        first = (labels != -100).int().argmax(1)  # the first answer token of each row: it has seen the whole prompt and no answer
        chosen = torch.zeros_like(labels, dtype=torch.bool)
        chosen[torch.arange(len(first), device=labels.device), first] = True
        return model.text_logits(fused, chosen)

    @torch.no_grad()
    def first_written(self, model: Any, batch: Batch, streams: Streams) -> Tensor:
        """[R, V] logits of the first token that `generate` chooses, which goes another way than the loss; for the influence check."""
        inputs = prompts_alone(batch, model.config.pad_token_id)
        settings = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        return model.generate(**inputs, streams=self.given(streams), **settings).logits[0]

    @torch.no_grad()
    def predict(self, model: Any, batch: Batch, streams: Streams) -> list[Prediction]:
        targets = batch.targets["texts"]
        asked = "perplexity" in self.options.metrics
        surprises = self.surprises(model, batch, streams) if asked else [None] * len(batch)
        only_judged = self.options.metrics == ("perplexity",) and None not in targets
        texts = [None] * len(batch) if only_judged else self.written(model, batch, streams)
        rows = zip(batch.ids, texts, targets, surprises, strict=True)
        return [Prediction(i, self.name, text, target, surprise=surprise) for i, text, target, surprise in rows]

    def written(self, model: Any, batch: Batch, streams: Streams) -> list[str]:
        """What the model writes behind each row's prompt."""
        return model.processor.decode_texts(self.written_ids(model, batch, streams, **self.options.generation))

    def written_ids(self, model: Any, batch: Batch, streams: Streams, **settings: Any) -> Tensor:
        """[R, T] the ids that the model writes behind each row's prompt, padded behind the end token; `settings` are `generate`'s."""
        inputs = prompts_alone(batch, model.config.pad_token_id)
        begun = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]  # tokens that `generate` gives back first
        settings = {"max_new_tokens": 32, "do_sample": False, **settings}
        settings["max_new_tokens"] = max(1, min(settings["max_new_tokens"], model.model.max_length - begun))
        return model.generate(**inputs, streams=self.given(streams), **settings)[:, begun:]

    def surprises(self, model: Any, batch: Batch, streams: Streams) -> list[tuple[float, int] | None]:
        """(-log likelihood, tokens) of each row's target, every token given the true ones before it; None where a row has none."""
        logits, labels = self.labelled(model, batch, streams)
        each = functional.cross_entropy(logits.float(), labels, reduction="none")
        chosen = batch.targets["labels"][:, 1:] != -100
        rows = chosen.nonzero()[:, 0]
        sums = torch.zeros(len(chosen), device=each.device).index_add_(0, rows, each).tolist()
        return [(value, count) if count else None for value, count in zip(sums, chosen.sum(1).tolist(), strict=True)]


def prompts_alone(batch: Batch, pad_id: int) -> dict[str, Tensor]:
    """The batch's inputs without targets: an encoder's prompts as they are; others cut off and padded on the left, as generation wants."""
    inputs = {key: value for key, value in batch.inputs.items() if not key.startswith("decoder_")}
    if "prompt_lengths" not in inputs:
        return inputs
    lengths = inputs["prompt_lengths"]
    longest = int(lengths.max())
    place = torch.arange(longest, device=lengths.device) - (longest - lengths).unsqueeze(1)  # [R, longest]
    mask = place >= 0
    ids = inputs["input_ids"].gather(1, place.clamp_min(0)).masked_fill(~mask, pad_id)
    return {**inputs, "input_ids": ids, "attention_mask": mask}
