"""Pages for a person: the run's own at `/`, its report, and the description of the routes. Nothing on them comes from another host."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from chiasm import report
from chiasm.serve.errors import Refused
from chiasm.serve.files import File
from chiasm.serve.service import service

router = APIRouter(tags=["pages"], include_in_schema=False)
PAGE = Path(__file__).parent.parent / "page"
STYLE = Path(report.__path__[0]) / "style.css"  # the look that this page shares with reports
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json"}


@router.get("/", response_model=None)
async def index() -> Response:
    return page("index.html")


@router.get("/docs", response_model=None)
async def docs() -> Response:
    """What `/openapi.json` says, for a person."""
    return page("docs.html")


@router.get("/page/{name}", response_model=None)
async def static(name: str) -> Response:
    return page(name)


@router.get("/v1/report", response_model=None)
async def run_report(request: Request) -> Response:
    """The report that training wrote: RUN/report.html."""
    file = service(request).folder / "report.html"
    if not file.is_file():
        raise Refused(404, "this run has no report.html; `chiasm evaluate` writes one")
    return File(file, media_type="text/html; charset=utf-8", headers={"cache-control": "no-store"})


def page(name: str) -> Response:
    """A file of the page, by a name that is one of its files': no path is made of what a request says."""
    file = {known.name: known for known in (STYLE, *PAGE.iterdir()) if known.suffix in TYPES}.get(name)
    if file is None:
        raise Refused(404, "there is no such page")
    return File(file, media_type=f"{TYPES[file.suffix]}; charset=utf-8", headers={"cache-control": "no-cache"})
