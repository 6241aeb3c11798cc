"""The chat template of a model: a conversation, written as the prompt that the model was trained with.

A Chiasm model learns from a task's prompt, such as "Question: {question} Answer:", not from a chat. Its template therefore puts the user's
words where the prompt has its text, pictures and sounds where training had them (in whatever order the message has them), and an
assistant's last words behind, with the end token. A conversation of several turns is written as chat records are: "role: text", one a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MEDIA = ("image", "audio", "video")

READ = """\
{%- macro words(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content | selectattr('type', 'equalto', 'text') -%}{{ part.text }}{%- if not loop.last %} {% endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro media(kind, token) -%}
{%- for turn in messages if turn.content is not string -%}
{%- for part in turn.content | selectattr('type', 'equalto', kind) -%}{{ token }}{%- endfor -%}
{%- endfor -%}
{%- endmacro -%}
{%- set answered = messages[-1].role == 'assistant' -%}
{%- set turns = messages[:-1] if answered else messages -%}
"""
ASKED = """\
{%- if turns | length == 1 and turns[0].role == 'user' -%}{{ words(turns[0].content) }}{%- else -%}
{%- for turn in turns -%}{{ turn.role ~ ': ' ~ words(turn.content) }}{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}{%- endfor -%}
{%- endif -%}
"""
ANSWERED = "{%%- if answered -%%}{%% generation %%}{{ %s ~ words(messages[-1].content) ~ %s }}{%% endgeneration %%}{%%- endif -%%}\n"


def chat_template(tasks: Sequence[Any], scattered: Sequence[str], layout: Mapping[str, Any], tokenizer: Any) -> str | None:
    """A Jinja template for a model's tasks; None where none of them writes text.

    The prompt is that of the first task that writes and reads one text; where there is none, the user's words stand alone. `scattered`:
    inputs with a placeholder in the sequence; `layout`: the processor's, which says where those stand that the prompt does not place.
    """
    writing = [task for task in tasks if task.writes]
    if not writing:
        return None
    declared: Mapping[str, str] = writing[0].declared
    task = next((t for t in writing if sum(declared.get(name) == "text" for name in t.prompt.fields) == 1), None)
    pieces: list[tuple[str, bool]] = [("", True)] if task is None else task.prompt.pieces
    body = [_piece(text, is_field, declared, scattered) for text, is_field in pieces]
    placed = {text for text, is_field in pieces if is_field}
    loose = [_media(name, declared[name]) for name in scattered if name not in placed]
    start = "".join(tokenizer.convert_ids_to_tokens(layout["start"]))
    begin = "{{- " + _quoted(start) + " -}}\n" if start else ""
    parts = [*reversed(loose), *body] if layout["first"] else [*body, *loose]  # a prompt's order: each goes in front of the others
    answer = "" if "target" in layout else ANSWERED % (_quoted(" "), _quoted(tokenizer.eos_token))  # a decoder writes it elsewhere
    return READ + begin + "".join(parts) + answer


def _piece(text: str, is_field: bool, declared: Mapping[str, str], scattered: Sequence[str]) -> str:
    """A piece of a prompt: its own words, the place of the user's, or the place of an input's tokens."""
    if not is_field:
        return "{{- " + _quoted(text) + " -}}\n"
    if declared.get(text, "text") == "text":
        return ASKED
    return _media(text, declared[text]) if text in scattered else ""


def _media(name: str, modality: str) -> str:
    """The placeholder of every picture or clip of the conversation; an input of another modality has none in a chat."""
    return "{{- media(" + _quoted(modality) + ", " + _quoted(f"<{name}>") + ") -}}\n" if modality in MEDIA else ""


def _quoted(text: str) -> str:
    """A Jinja string."""
    return json.dumps(text)
