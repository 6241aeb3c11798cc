"""VisualBERT: ready-made vectors of a picture's regions stand behind the words of a BERT, with a position and a token type of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from chiasm.convert.base import System, Weights, arch_section, random_ids
from chiasm.types import Sample

SHARED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob")
SHARED += ("attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size", "initializer_range", "layer_norm_eps")
REGIONS = 100  # of a picture, where there are positions for so many
MATCH = ("match", "random")  # what VisualBertForPreTraining tells apart


class VisualBert(System):
    """Early fusion on a bidirectional backbone, whose own count of positions the regions do not enter."""

    classes = ("VisualBertForQuestionAnswering", "VisualBertForVisualReasoning", "VisualBertForPreTraining", "VisualBertModel")

    def check(self) -> None:
        if self.config.bypass_transformer:
            self.refuse("bypass_transformer", "true: regions that meet the words in one last layer only are not supported")

    @property
    def has_head(self) -> bool:
        return hasattr(self.model, "cls")

    @property
    def answers(self) -> bool:
        return type(self.model).__name__ == "VisualBertForQuestionAnswering"

    @property
    def labels(self) -> list[str]:
        if type(self.model).__name__ == "VisualBertForPreTraining":
            return list(MATCH)
        return [str(label) for _, label in sorted((self.config.id2label or {}).items())]

    @property
    def places(self) -> int:
        return min(REGIONS, self.config.max_position_embeddings // 2)

    def recipe(self) -> dict[str, Any]:
        bert = AutoConfig.for_model("bert", **{key: getattr(self.config, key) for key in SHARED})
        pool = "last_word" if self.answers else "pooler"
        task: dict[str, Any] = {"type": "contrast", "between": ["regions", "question"], "project": False, "text": "backbone"}
        if self.has_head:
            task = {"type": "classify", "target": "label", "labels": self.labels, "dropout": self.config.hidden_dropout_prob}
        regions = {"modality": "features", "width": self.config.visual_embedding_dim, "normalise": False, "max_length": self.places}
        return {
            "inputs": {"regions": regions, "question": "text"},
            "encoders": {"regions": {"places": self.places, "connector": "linear"}},
            "backbone": {
                "kind": "bidirectional",
                **arch_section(bert),
                "vocab_size": self.config.vocab_size,
                "pool": pool,
                "tokenizer": self.tokenizer_name,
            },
            "fusion": {"type": "early", "counted": False},
            "tasks": {"answer": task},
        }

    def rows(self) -> list[Sample]:
        nothing = [[0.0] * self.config.visual_embedding_dim]
        labels = self.labels if self.has_head else [""]
        return [Sample(label, {"regions": nothing, "question": "", "label": label}) for label in labels]

    def move(self, weights: Weights, model: Any) -> None:
        body = "visual_bert." if self.has_head else ""
        own = {n: f"{body}embeddings.{n}_embeddings.weight" for n in ("position", "token_type", "visual_position", "visual_token_type")}
        place, kind = weights.source[own["position"]][0], weights.source[own["token_type"]][0]  # a BERT adds these to every token
        seen = weights.take(own["visual_position"])[0] + weights.take(own["visual_token_type"])[1] - place - kind
        weights.target["model.fusion.placing.regions.position"] = seen.unsqueeze(0)
        weights.dropped[f"{own['visual_position']}[1:]"] = "regions all stand at the first visual position"
        weights.dropped[f"{own['visual_token_type']}[0]"] = "regions are all of token type 1"
        weights.part(f"{body}embeddings.visual_projection.", "model.connectors.regions.layer.")
        if self.answers:
            weights.drop(f"{body}pooler.", "the answer is read from the last word, not through the pooler")
        weights.drop("cls.predictions.", "words are not predicted: a bidirectional backbone has no word head here")
        weights.part("cls.seq_relationship.", "heads.answer.1.")
        weights.part("cls.", "heads.answer.1.")
        if not self.has_head:
            weights.fresh["heads.answer.log_scale.value"] = (
                "the checkpoint has no head; `answer` compares regions and words until you give it one"
            )
        weights.part(body, "model.language_model.")

    @torch.no_grad()
    def compare(self, model: Any, processor: Any) -> dict[str, tuple[Tensor, Tensor]]:
        draw, lengths = torch.Generator().manual_seed(0), [7, 4, 6]
        ids, mask = random_ids(self.config.vocab_size, lengths, draw, avoid=set())
        regions = torch.randn(3, min(5, self.places), self.config.visual_embedding_dim, generator=draw)
        shown = torch.arange(regions.shape[1]) < torch.tensor([5, 2, 4]).unsqueeze(1)
        theirs = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            visual_embeds=regions.to(self.model.dtype),
            visual_attention_mask=shown.long(),
            output_hidden_states=True,
        )
        hidden = theirs.hidden_states[-1]  # [3, words, then regions, W]
        token, width = processor.placeholder_id("regions"), max(lengths) + self.places
        rows = [
            [*row[:n].tolist(), *[token] * self.places, *[processor.pad_id] * (max(lengths) - n)]
            for row, n in zip(ids, lengths, strict=True)
        ]
        whole = torch.arange(width) < torch.tensor(lengths).unsqueeze(1) + self.places
        given = {"input_ids": torch.tensor(rows), "attention_mask": whole.long(), "features": regions, "features_mask": shown}
        fused = model.model(**given).fused
        ours = fused.branches["text"]
        found = {
            "hidden states": (
                torch.cat([torch.cat([h[: max(lengths)][m], h[max(lengths) :][s]]) for h, m, s in zip(hidden, mask, shown, strict=True)]),
                torch.cat([values[visible] for values, visible in zip(ours.values, ours.mask, strict=True)]),
            )
        }
        if self.has_head:
            logits = getattr(theirs, "seq_relationship_logits", None)
            found["logits"] = (theirs.logits if logits is None else logits, model.head_logits("answer", fused, mix="values"))
        return found
