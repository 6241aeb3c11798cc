"""`chiasm serve`: a run behind an HTTP API in OpenAI's form."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from chiasm_cli.address import listening
from chiasm_cli.evaluate import Run
from chiasm_cli.output import note, result


def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="A file with the API key that requests must have, one a line.")] = None,
    index: Annotated[Path | None, typer.Option(help="A folder that `chiasm index` wrote, for /v1/search.")] = None,
    slots: Annotated[int, typer.Option(help="Texts that are written at once.", min=1)] = 8,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; more are answered with 429.", min=1)] = 32,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the step that writes a token: starts a minute later, then writes faster.")
    ] = False,
    grace: Annotated[float, typer.Option(help="Seconds that begun requests have to end when the server is stopped.", min=0)] = 30.0,
) -> None:
    """Serve a run over HTTP (chat, embeddings, search, ...), in the form that OpenAI's clients speak, with a page to try it."""
    for module in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"chiasm serve needs {module}: pip install 'chiasm[serve]'")
    check_folder(run)

    def say(where: dict[str, Any], lines: list[str]) -> None:
        result({"serving": str(run), **where, "lines": lines}, lines)
        sys.stdout.flush()

    with listening(host, port) as sock:
        note(f"loading {run} ...")
        from chiasm.serve.server import Settings, read_keys
        from chiasm.serve.server import serve as run_server

        keys = read_keys(api_key_file) if api_key_file is not None else ()
        run_server(Settings(run, host, keys, index, slots, waiting, grace, compile), sock, say, note)


def check_folder(run: Path) -> None:
    """Usage error, with the nearest run, where there is no such folder; what is wrong inside of one is said when it is loaded."""
    if run.is_dir():
        return
    near = difflib.get_close_matches(str(run), [str(file.parent) for file in run.parent.glob("*/recipe.yaml")], n=1)
    raise typer.BadParameter(f"{run}: not a run folder (there is no such folder)" + (f"; did you mean '{near[0]}'?" if near else ""))
