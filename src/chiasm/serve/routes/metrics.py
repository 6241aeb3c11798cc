"""`/metrics`: what was asked and answered, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse

from chiasm.serve.service import BUCKETS, Service, service

router = APIRouter(tags=["health"])
Row = tuple[Mapping[str, object], float]


@router.get("/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
async def metrics(request: Request) -> PlainTextResponse:
    """Requests by route and status, their seconds, tokens, and how many wait; text format 0.0.4."""
    return PlainTextResponse("\n".join(lines(service(request))) + "\n", media_type="text/plain; version=0.0.4")


def lines(shared: Service) -> Iterator[str]:
    counts, engine = shared.counts, shared.engine
    answered = [({"method": m, "route": r, "status": s}, float(n)) for (m, r, s), n in sorted(counts.requests.items())]
    yield from family("chiasm_http_requests_total", "counter", "Requests that were answered.", answered)
    yield from seconds(shared)
    yield from family("chiasm_prompt_tokens_total", "counter", "Tokens of prompts that were read.", [({}, counts.prompt_tokens)])
    yield from family("chiasm_completion_tokens_total", "counter", "Tokens that were written.", [({}, counts.completion_tokens)])
    reasons = [({"reason": reason}, float(n)) for reason, n in sorted(counts.finished.items())]
    yield from family("chiasm_answers_total", "counter", "Answers, by why they ended.", reasons)
    yield from family("chiasm_cancelled_total", "counter", "Requests whose caller left before the answer.", [({}, counts.cancelled)])
    yield from family("chiasm_ready", "gauge", "1 where the server would answer a question.", [({}, shared.state == "ready")])
    if engine is None:
        return
    yield from family("chiasm_waiting", "gauge", "Requests that were accepted and not begun.", [({}, engine.waiting)])
    yield from family("chiasm_active", "gauge", "Requests that the model works on.", [({}, engine.active)])
    own = engine.counters
    yield from family("chiasm_engine_requests_total", "counter", "Rows that the engine accepted.", [({}, own.requests)])
    yield from family("chiasm_engine_refused_total", "counter", "Rows that were refused because too many waited.", [({}, own.refused)])
    yield from family("chiasm_engine_forwards_total", "counter", "Forward passes of the model.", [({}, own.forwards)])
    yield from family("chiasm_engine_rows_total", "counter", "Rows of all forward passes together.", [({}, own.rows)])
    yield from family("chiasm_engine_tokens_total", "counter", "Tokens of all forward passes that write.", [({}, own.tokens)])


def seconds(shared: Service) -> Iterator[str]:
    """How long answers took, as a histogram by route."""
    name = "chiasm_http_request_seconds"
    yield f"# HELP {name} From a request's head to the end of its answer."
    yield f"# TYPE {name} histogram"
    for route, row in sorted(shared.counts.seconds.items()):
        for bucket, count in zip((*BUCKETS, "+Inf"), row[:-1], strict=True):
            yield sample(f"{name}_bucket", {"route": route, "le": bucket}, count)
        yield sample(f"{name}_sum", {"route": route}, row[-1])
        yield sample(f"{name}_count", {"route": route}, row[-2])


def family(name: str, kind: str, about: str, rows: Iterable[Row]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for labels, value in rows:
        yield sample(name, labels, value)


def sample(name: str, labels: Mapping[str, object], value: float) -> str:
    shown = ",".join(f'{key}="{escaped(str(text))}"' for key, text in labels.items())
    number = f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{name}{{{shown}}} {number}" if shown else f"{name} {number}"


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
