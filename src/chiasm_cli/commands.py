"""All commands as one typer application, loaded where a command needs more than its name: typer takes most of a short command's time."""

from __future__ import annotations

import importlib
from typing import Any

import typer
import typer.core
import typer.main

from chiasm_cli.main import ABOUT, COMMANDS, EVERYWHERE

UsageError: Any = typer.BadParameter.__mro__[1]  # typer brings its own click, or not


class Commands(typer.core.TyperGroup):
    """A command is the module of its name, imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            raise UsageError(f"no command '{cmd_name}'" + (f"; did you mean 'chiasm {near[0]}'?" if near else ""), ctx=ctx)
        module = importlib.import_module(f"chiasm_cli.{cmd_name}")
        if hasattr(module, "app"):  # a command with commands of its own
            return typer.main.get_group(module.app)
        alone = typer.Typer(rich_markup_mode=None, add_completion=False)
        alone.command(cmd_name, epilog=EVERYWHERE)(getattr(module, cmd_name))
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=Commands,
    epilog=EVERYWHERE,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(help=ABOUT)
def chiasm() -> None:
    pass
