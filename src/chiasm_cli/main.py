"""The command `chiasm`: finds the command, and turns every error into one line and an exit code.

0 done; 1 a mistake of ours; 2 a mistake of the user's; 3 training met NaN or Inf; 130 and 143 on Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

from chiasm_cli.output import result, settings

ABOUT = "Multimodal models from one recipe: train a model that sees, reads and hears, and ask it."
SIGNALS = {130: "stopped", 143: "terminated"}
EVERYWHERE = "Every command takes --json (the result, or the error, as JSON) and --debug (the traceback of an error)."
COMMANDS = {
    "demo": "Train on built-in pictures and sounds, and show what was learned.",
    "init": "Look at own data and print a recipe for it.",
    "check": "Check a recipe or data, and what training would cost.",
    "train": "Train a model from a recipe, and evaluate it.",
    "evaluate": "Score a run, also with each input shuffled and missing.",
    "compare": "Compare fusions on one recipe, beside single inputs and blind answers.",
    "audit": "Say which inputs a run, a VLM or an endpoint uses.",
    "predict": "Predict every record of a file.",
    "ask": "Ask a run one question, or chat with it.",
    "serve": "Serve a run over HTTP, in OpenAI's form, with a page to try it.",
    "explain": "Show which inputs, and which parts of them, an answer rests on.",
    "index": "Index pictures, sounds and texts, to search them.",
    "search": "Find what is most like some words, a picture or a sound.",
    "classify": "Say which of some labels fits best, without training for them.",
    "convert": "Make a run of a transformers checkpoint, with equal outputs.",
    "export": "Write a run for transformers, ONNX or the Hub.",
    "recipes": "List, show or copy the recipes that come with Chiasm; list the fusions.",
    "data": "Write a built-in data set as plain files.",
}


def main() -> None:
    """Run the command line and leave with its exit code."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    settings.update({name: f"--{name}" in own for name in settings})
    arguments = [a for i, a in enumerate(arguments) if a not in ("--json", "--debug") or i >= len(own)] or ["--help"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments in (["-h"], ["--help"]):
            print(help_text())
            return 0
        if arguments == ["--version"]:
            version = importlib.import_module("importlib.metadata").version("chiasm")
            result({"version": version}, f"chiasm {version}")
            return 0
        if arguments in (["recipes"], ["recipes", "list"]):
            importlib.import_module("chiasm_cli.shelf").list_recipes()
            return 0
        app = importlib.import_module("chiasm_cli.commands").app
        code = app(arguments, prog_name="chiasm", standalone_mode=False) or 0
        return fail(SIGNALS[code], code) if code in SIGNALS else code
    except KeyboardInterrupt:
        return fail(SIGNALS[130], 130)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            return 0
        if error.code in SIGNALS:
            return fail(SIGNALS[error.code], error.code)
        return error.code if isinstance(error.code, int) else fail(str(error.code), 1)
    except BrokenPipeError:
        return 0  # the reader of our output has seen enough
    except Exception as error:  # noqa: BLE001
        return fail(*explain(error), error=error)


def help_text() -> str:
    """What `chiasm --help` says."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
    return f"""Usage: chiasm COMMAND [ARGS]...

  {ABOUT}

Commands:
{commands}

  chiasm COMMAND --help says what a command takes; chiasm --version, which version this is;
  chiasm --install-completion teaches your shell to complete.
  {EVERYWHERE}"""


def explain(error: Exception) -> tuple[str, int]:
    """One line and the exit code of an error."""
    types = sys.modules.get("chiasm.types")  # not loaded: no error of chiasm's own
    if types is not None and isinstance(error, types.ChiasmError):
        return str(error), error.exit_code
    if type(error).__name__ == "Abort":
        return SIGNALS[130], 130
    usage: Any = error
    if hasattr(usage, "format_message"):  # an error of typer's, which need not be loaded here
        where = usage.ctx.command_path if getattr(usage, "ctx", None) is not None else "chiasm"
        message = usage.format_message().rstrip(".").removeprefix("Invalid value: ").replace("Value error, ", "")
        return f"{message} (`{where} --help` shows how)", 2
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or str(error)).lower()}", 2
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; run `make setup`, or pip install the package that has it", 2
    return f"internal error: {type(error).__name__}: {error} (please report it; --debug shows where)", 1


def fail(message: str, code: int, *, error: Exception | None = None) -> int:
    """Print an error in one line, or as JSON; the traceback under --debug."""
    if settings["debug"] and error is not None:
        import traceback

        traceback.print_exception(error)
    message = " ".join(message.split())
    if settings["json"]:
        import json

        kind = type(error).__name__ if error is not None else "Stopped"
        problems = getattr(error, "problems", None)
        print(json.dumps({"error": {"type": kind, "message": message, "code": code, **({"problems": problems} if problems else {})}}))
    else:
        print(f"error: {message}", file=sys.stderr)
    return code
