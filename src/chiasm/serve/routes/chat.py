"""`/v1/chat/completions`: a conversation -> what the run answers, at once or as it is written."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from chiasm.conversation import MEDIA, Asked, Part, Turn, asked
from chiasm.reading import EARLIER
from chiasm.serve import errors
from chiasm.serve.chat_schema import ChatRequest, Message
from chiasm.serve.errors import Refused
from chiasm.serve.limits import Limits, dumps
from chiasm.serve.parts import check_media, part_of
from chiasm.serve.service import Service, log, naming, service, unless_gone
from chiasm.serve.work import Finished, Ticket, Work
from chiasm.types import ChiasmError

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", response_model=None, summary="Answer a conversation")
async def chat(request: Request, body: ChatRequest) -> Response:
    """Text, pictures (data: URIs), sounds (base64) and videos (data: URIs), one turn or several; OpenAI's form of request and answer."""
    shared = service(request)
    run = shared.open_run(body.model)
    check_numbers(body, shared.limits)
    question = asked(run, turns_of(body.messages, shared.limits), task=body.task, inputs=given(run, body.inputs))
    tickets = await unless_gone(request, submit(shared, body, question), shared.counts)
    reply = Reply(shared, body, question, tickets)
    try:
        if not body.stream:
            return JSONResponse(await unless_gone(request, reply.whole(), shared.counts))
        pieces = reply.stream()
        first = await unless_gone(request, anext(pieces), shared.counts)  # so that what cannot be answered has a status of its own
    except BaseException:
        reply.cancel()
        raise
    return StreamingResponse(
        reply.until_gone(first, pieces), media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
    )


async def submit(shared: Service, body: ChatRequest, question: Asked) -> list[Ticket]:
    """One ticket for each answer that is wanted; all or none."""
    tickets: list[Ticket] = []
    try:
        for number in range(body.n or 1):
            work = Work(
                parts=question.row,
                task=question.task.name,
                max_new_tokens=body.length,
                temperature=body.temperature,
                top_p=body.top_p,
                top_k=body.top_k,
                seed=None if body.seed is None else (body.seed + number) % 2**63,
                stop=body.stops,
            )
            tickets.append(await naming(question, shared.engine.submit(work)))
    except BaseException:
        for ticket in tickets:
            ticket.cancel()
        raise
    return tickets


class Reply:
    """The answers to one request, in OpenAI's form."""

    def __init__(self, shared: Service, body: ChatRequest, question: Asked, tickets: list[Ticket]):
        self.shared, self.body, self.question, self.tickets = shared, body, question, tickets
        self.head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": body.model}
        for note in question.notes:
            log.info("%s: %s", self.head["id"], note)

    async def whole(self) -> dict[str, Any]:
        """The answers once they are all there."""
        found = await asyncio.gather(*(ticket.result() for ticket in self.tickets))
        self.shared.counts.answers(found, usage(found))
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": text_of(one), "refusal": None},
                "logprobs": None,
                "finish_reason": one.finish_reason,
            }
            for number, one in enumerate(found)
        ]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": usage(found), **self.about(found[0])}

    def about(self, first: Finished | None = None) -> dict[str, Any]:
        """What OpenAI's form has no place for: which task answered, how sure it is, and what of the request the model was not given."""
        more: dict[str, Any] = {"task": self.question.task.name}
        if first is not None:
            more |= {"score": first.prediction.score, "probabilities": first.prediction.probabilities}
        notes = self.question.notes
        return {"chiasm": {**more, "warnings": list(notes), "warning_codes": [{"code": note.code, **note.figures} for note in notes]}}

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events: each answer's pieces as they come, its end, the usage where it is asked for."""
        queue: asyncio.Queue[tuple[int, str | Finished | BaseException]] = asyncio.Queue()
        for number in range(len(self.tickets)):
            self.tickets[number].listen()
        readers = [asyncio.ensure_future(_read(number, ticket, queue)) for number, ticket in enumerate(self.tickets)]
        found: list[Finished] = []
        begun: set[int] = set()
        try:
            while len(found) < len(self.tickets):
                number, item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                lead = {} if number in begun else {"role": "assistant"}
                begun.add(number)
                if isinstance(item, str):
                    yield self.event(number, {**lead, "content": item}, None)
                    continue
                found.append(item)
                if lead and (text := text_of(item)):
                    yield self.event(number, {**lead, "content": text}, None)  # a task that does not write says it all at once
                    lead = {}
                yield self.event(number, lead, item.finish_reason, item)
            self.shared.counts.answers(found, usage(found))
            if self.body.stream_options is not None and self.body.stream_options.include_usage:
                yield event({**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage(found)})
            yield "data: [DONE]\n\n"
        finally:
            for reader in readers:
                reader.cancel()

    def event(self, number: int, delta: dict[str, Any], reason: str | None, last: Finished | None = None) -> str:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
        about = self.about(last) if last is not None else {}
        return event({**self.head, "object": "chat.completion.chunk", "choices": [choice], **about})

    async def until_gone(self, first: str, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
        """The stream, begun; what goes wrong on the way is its last event, and a caller who leaves ends the work."""
        done = False
        try:
            yield first
            async for piece in pieces:
                yield piece
            done = True
        except (ChiasmError, RuntimeError, Refused) as error:
            found = errors.refusal(error)
            log.warning("%s: %s", self.head["id"], found)
            yield event(errors.body(found.status, str(found), param=found.param, code=found.code))
            done = True
        finally:
            if not done:
                self.shared.counts.cancelled += 1
            self.cancel()

    def cancel(self) -> None:
        for ticket in self.tickets:
            ticket.cancel()


async def _read(number: int, ticket: Ticket, queue: asyncio.Queue[tuple[int, str | Finished | BaseException]]) -> None:
    """Put what a ticket writes, and then its result, into the queue."""
    try:
        async for piece in ticket:
            queue.put_nowait((number, piece))
        queue.put_nowait((number, await ticket.result()))
    except Exception as error:  # noqa: BLE001
        queue.put_nowait((number, error))


def text_of(found: Finished) -> str:
    """An answer as text: what was written, a label, a number; of vectors that two towers make, how alike they are."""
    output = found.prediction.output
    if isinstance(output, dict):
        return f"similarity: {found.prediction.score:.4f}"
    return output if isinstance(output, str) else str(output)


def usage(found: list[Finished]) -> dict[str, int]:
    """The prompt counts once, however many answers there are to it."""
    prompt, written = max((one.prompt_tokens for one in found), default=0), sum(one.completion_tokens for one in found)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def event(data: dict[str, Any]) -> str:
    return f"data: {dumps(data)}\n\n"


def turns_of(messages: list[Message], limits: Limits) -> list[Turn]:
    """Messages as turns of a conversation, their media decoded from base64."""
    if len(messages) > limits.messages:
        raise Refused(400, f"{len(messages)} messages; one request may have {limits.messages}", param="messages", code="too_many")
    turns = []
    for number, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        listed = [] if isinstance(message.content, str) else message.content
        parts = [part_of(part, f"messages.{number}.content.{place}") for place, part in enumerate(listed)]
        if isinstance(message.content, str):
            parts = [Part("text", message.content, where=f"messages.{number}.content")]
        turns.append(Turn(role, tuple(parts)))
    check_media([part for turn in turns for part in turn.parts], limits)
    return turns


def given(run: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The request's `inputs`, none of which may be a picture or a clip: those come as parts, never as a path."""
    for name, value in inputs.items():
        spec = run.recipe.inputs.get(name)
        if (spec is not None and spec.modality in MEDIA) or name in MEDIA:
            raise Refused(400, f"inputs.{name}: send it as a part of a message, as data", param=f"inputs.{name}", code="not_a_part")
        texts = spec is not None and spec.modality in ("text", "tokens")
        if texts and not isinstance(value, str):
            raise Refused(400, f"inputs.{name}: must be a text", param=f"inputs.{name}", code="bad_type")
        if name in {EARLIER, *(column for task in run.tasks.values() for column in task.lists)}:
            raise Refused(400, f"inputs.{name}: earlier turns are messages", param=f"inputs.{name}", code="bad_type")
    return inputs


def check_numbers(body: ChatRequest, limits: Limits) -> None:
    """Refuse more than one request may ask for."""
    if (body.n or 1) > limits.choices:
        raise Refused(400, f"n: {body.n}; one request may have {limits.choices} answers", param="n", code="too_many")
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    if (body.length or 0) > limits.tokens:
        raise Refused(400, f"{name}: {body.length}; an answer may have {limits.tokens} tokens", param=name, code="too_many")
    if len(body.stops) > limits.stops or any(not 0 < len(text) <= 200 for text in body.stops):
        raise Refused(400, f"stop: up to {limits.stops} texts of 1 to 200 characters", param="stop", code="too_many")
