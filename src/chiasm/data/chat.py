"""Chat-form records, accepted next to plain columns.

    {"messages": [{"role": "user", "content": "<image>what is this?"}, {"role": "assistant", "content": "a cat"}], "images": ["cat.jpg"]}

gives the parts `prompt` ("what is this?"), `answer` ("a cat") and `image` ("cat.jpg", or a list where there are several), beside its own.
`audios` and `videos` work like `images`. Of several turns the last answer is the one that is learned; a row per answer learns them all.
The turns before it are there in two forms: in `prompt`, one a line, as "role: text"; and as `question`, the last user's turn, after
`history`, a list of {question, answer} for a task's `repeat`. What a system turn says stands in front of the next question there.
Known to be imperfect: where in the prompt a picture stood is not kept; pictures come in the order of their placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chiasm.types import BadInput

MEDIA = {"images": "image", "audios": "audio", "videos": "video"}
MADE = ("prompt", "answer", "question", "history")
ROLES = ("system", "user", "assistant")


def is_chat(columns: Sequence[str]) -> bool:
    return "messages" in columns


def chat_columns(columns: Sequence[str]) -> list[str]:
    """The columns of chat-form records, those that `from_messages` makes included."""
    made = [*MADE, *(single for several, single in MEDIA.items() if several in columns)]
    return [*columns, *(c for c in made if c not in columns)]


def from_messages(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a chat-form record -> the same with prompt, answer and media. Raises BadInput where the messages are not a chat."""
    if parts.get("messages") is None:
        return dict(parts)
    turns, inline = _turns(parts["messages"])
    media = {}
    for several, single in MEDIA.items():
        listed = _listed(parts.get(several))
        turns = _without_placeholders(turns, f"<{single}>", len(listed))
        media[single] = listed + inline.get(single, [])
    answer = turns.pop()[1] if turns[-1][0] == "assistant" else None
    if not turns:
        raise BadInput("no_prompt", "the messages have no user turn before the answer", input="messages")
    alone = len(turns) == 1 and turns[0][0] == "user"
    prompt = turns[0][1] if alone else "\n".join(f"{role}: {text}" for role, text in turns)
    question, history = _dialogue(turns)
    kept = {key: value for key, value in {"question": question, "history": history}.items() if key not in parts}
    made = {
        "prompt": prompt,
        "answer": answer,
        **kept,
        **{s: items[0] if len(items) == 1 else items for s, items in media.items() if items},
    }
    return {**parts, **{k: v for k, v in made.items() if v is not None}}


def _dialogue(turns: Sequence[tuple[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """(the last question, the {question, answer} before it); turns of one side that follow one another are one."""
    history: list[dict[str, str]] = []
    asked: list[str] = []
    for role, text in turns:
        if role != "assistant":
            asked.append(text)
        elif asked or not history:
            history.append({"question": " ".join(asked), "answer": text})
            asked = []
        else:
            history[-1]["answer"] += f" {text}"
    return " ".join(asked), history


def _turns(messages: Any) -> tuple[list[tuple[str, str]], dict[str, list[Any]]]:
    """[(role, text)], and the media that the contents hold themselves."""
    if not isinstance(messages, list) or not messages:
        raise BadInput("bad_messages", "messages must be a list of {role, content}", input="messages")
    turns: list[tuple[str, str]] = []
    inline: dict[str, list[Any]] = {}
    for number, message in enumerate(messages, start=1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise BadInput("bad_messages", f"message {number} has role {role!r}; known: {', '.join(ROLES)}", input="messages")
        turns.append((role, _text(message.get("content"), number, inline)))
    return turns, inline


def _text(content: Any, number: int, inline: dict[str, list[Any]]) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadInput("bad_messages", f"message {number}: content must be text or a list of parts", input="messages")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(kind, str) and kind in MEDIA.values():
            if part.get(kind) is not None:
                inline.setdefault(kind, []).append(part[kind])
        else:
            raise BadInput(
                "bad_messages", f"message {number}: a part of type {kind!r}; known: text, {', '.join(MEDIA.values())}", input="messages"
            )
    return " ".join(texts)


def _without_placeholders(turns: list[tuple[str, str]], placeholder: str, items: int) -> list[tuple[str, str]]:
    """Placeholders are taken out where there is one per item; with no media of that kind they are ordinary text."""
    count = sum(text.count(placeholder) for _, text in turns)
    if not items or not count:
        return turns
    if count != items:
        raise BadInput(
            "placeholder_mismatch", f"{count} {placeholder} in the messages, but {items} given; write one for each", input="messages"
        )
    return [(role, text.replace(placeholder, "").strip()) for role, text in turns]


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
