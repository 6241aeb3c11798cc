"""The pass of an encoder-decoder: the encoder listens to the prompt, the decoder writes; streams meet either of them.

What streams become between the encoder's layers stays there, so that a prompt is read once however much is written about it.
Letters: R rows, S prompt tokens, T written tokens, L stream tokens, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.connectors.base import read_prompt
from chiasm.outputs import ChiasmEncoderOutput, ChiasmSeq2SeqOutput
from chiasm.types import Streams, Tokens

DECODING = ("decoder_input_ids", "decoder_attention_mask", "encoder_outputs")  # arguments that only an encoder-decoder takes


class DecodingPass:
    """Mixed into ChiasmModel, whose parts, masks and hooks it uses."""

    def decode(
        self: Any,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        streams: Streams,
        *,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        encoder_outputs: Any,
        past_key_values: Any,
        use_cache: bool,
        **rest: Any,
    ) -> ChiasmSeq2SeqOutput:
        """An encoder-decoder's pass, from its beginning or from what `listen` gave (`encoder_outputs`).

        Without decoder_input_ids the decoder gets the prompt, shifted right (BART's rule), without the places of streams in it.
        """
        trace: dict[str, Tensor] | None = {} if rest.get("output_attentions") else None
        if encoder_outputs is None:
            encoder_outputs = self.listen(input_ids, attention_mask, inputs_embeds, streams, trace=trace, **rest)
        heard, seen = encoder_outputs[0], getattr(encoder_outputs, "attention_mask", attention_mask)
        seen = torch.ones(heard.shape[:2], device=heard.device) if seen is None else seen
        if decoder_input_ids is None:
            if input_ids is None:
                raise TypeError("forward needs decoder_input_ids where it is not given the prompt's input_ids")
            whole = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            decoder_input_ids = self.backbone.shifted(input_ids, whole.bool())
            decoder_attention_mask = self.see(whole.bool(), self.placeholders(decoder_input_ids), {})
        cache = {"past_key_values": past_key_values, "use_cache": use_cache}
        step = self.step(decoder_input_ids, decoder_attention_mask, {}, streams, **cache)
        step.trace, step.prompt = trace, Tokens(heard, seen.bool())
        placed = self.fusion.place(read_prompt(self.connectors, streams, step.prompt, step))
        memory = beside(step.prompt, self.fusion.memory(placed, step))
        with self._during(placed, step, memory) as call:
            output = self.backbone.write(decoder_input_ids, step.mask, memory, **cache, **rest)
            placed = call.streams
        fused = self.after(output, placed, step)
        return ChiasmSeq2SeqOutput(
            last_hidden_state=fused.branches["text"].values,
            past_key_values=output.get("past_key_values"),
            decoder_hidden_states=output.get("hidden_states"),
            decoder_attentions=output.get("attentions"),
            cross_attentions=output.get("cross_attentions"),
            encoder_last_hidden_state=heard,
            fused=fused,
        )

    def shifted_labels(self: Any, labels: Tensor) -> Tensor:
        """Labels [R, T] (-100: none) -> what the decoder reads to write them."""
        target = labels.masked_fill(labels == -100, self.config.pad_token_id)
        return self.backbone.shifted(target, torch.ones_like(target, dtype=torch.bool))

    def listen(
        self: Any,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        streams: Streams,
        *,
        trace: dict[str, Tensor] | None = None,
        **rest: Any,
    ) -> ChiasmEncoderOutput:
        """The prompt [R, S] (token ids, or embedded) and routed streams -> the encoder's output [R, S, W] and what it saw."""
        values = self.backbone.embed(input_ids, len(streams)) if inputs_embeds is None else inputs_embeds
        step = self.step(values, attention_mask, self.placeholders(input_ids), streams)
        step.trace, step.reach = trace, self.reach(input_ids, streams, step)
        text = Tokens(values, step.mask)
        placed = self.fusion.place(read_prompt(self.connectors, streams, text, step))
        text = self.fusion.before(text, placed, step)
        with self._during(placed, step):
            output = self.backbone.listen(text.values, step.mask, **rest)
        return ChiasmEncoderOutput(output.last_hidden_state, output.get("hidden_states"), output.get("attentions"), step.mask.long())


def beside(prompt: Tokens, memory: Tokens | None) -> Tokens:
    """What a decoder's own cross-attention reads: the encoder's output, then a fusion's memory; [R, S + L, W]."""
    if memory is None:
        return prompt
    return Tokens(torch.cat([prompt.values, memory.values.to(prompt.values.dtype)], 1), torch.cat([prompt.mask, memory.mask], 1))
