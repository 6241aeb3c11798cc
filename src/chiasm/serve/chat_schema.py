"""What `/v1/chat/completions` takes: OpenAI's fields as far as a run has something behind them, and a few of our own.

A field that would change the answer and that nothing stands behind is refused, unless it asks for nothing (`logprobs: false`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from chiasm.serve.parts import Body, ContentPart

Number = Annotated[float, Field(allow_inf_nan=False)]
NOTHING = (None, False, 0, 0.0, [], {}, "auto", "text", "none", "default")
IGNORED = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
}  # no answer depends on them
UNSUPPORTED = {
    "tools": "no run calls tools",
    "tool_choice": "no run calls tools",
    "functions": "no run calls functions",
    "function_call": "no run calls functions",
    "response_format": "answers are plain text",
    "logprobs": "the server gives no log-probabilities",
    "top_logprobs": "the server gives no log-probabilities",
    "logit_bias": "words cannot be favoured",
    "frequency_penalty": "repetition is not punished",
    "presence_penalty": "repetition is not punished",
    "modalities": "answers are text",
    "audio": "answers are text",
    "prediction": "nothing is predicted ahead",
    "reasoning_effort": "a run has no such setting",
    "verbosity": "a run has no such setting",
    "web_search_options": "the server fetches nothing",
}


Parts = Annotated[list[ContentPart], Field(min_length=1)]
Content = Annotated[
    Annotated[str, Tag("tagged-text")] | Annotated[Parts, Tag("tagged-parts")],
    Discriminator(lambda value: "tagged-text" if isinstance(value, str) else "tagged-parts"),
]


class Message(Body):
    """What one side said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    """Of OpenAI; the model is not told."""
    refusal: None = None


class StreamOptions(Body):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Question(Body):
    """Fields that every request which asks the run something has."""

    model: str
    """The run's name, as `/v1/models` gives it."""
    task: str | None = None
    """The run's task that answers; the one that reads exactly what is given, where not given."""
    inputs: dict[str, Any] = {}
    """Values of inputs that no message can hold, by name: a table's columns, features, a second text."""


class ChatRequest(Question):
    """A conversation, and how it is to be gone on with."""

    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        """Drop what asks for nothing, and say why the rest cannot be had."""
        if not isinstance(data, dict):
            return data
        kept = {}
        for key, value in data.items():
            if key in UNSUPPORTED:
                plain = value.get("type") if isinstance(value, dict) and set(value) == {"type"} else value
                if isinstance(plain, list) and plain == ["text"]:
                    plain = None
                if plain not in NOTHING:
                    raise ValueError(f"{key} is not supported: {UNSUPPORTED[key]}")
            elif key not in IGNORED:
                kept[key] = value
        return kept

    @property
    def length(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
