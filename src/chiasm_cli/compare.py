"""`chiasm compare`: only the fusion varies, and single inputs and blind answers stand beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.output import next_step, result, settings
from chiasm_cli.train import Overrides

DEFAULT = "early,gated_cross_attention,late where not given"


def compare(
    recipe: Annotated[str | None, typer.Argument(help="A recipe file, or the name of one of `chiasm recipes`.")] = None,
    overrides: Overrides = None,
    fusion: Annotated[
        str | None, typer.Option(help=f"Strategies, e.g. early,late:combine=tensor; {DEFAULT}.", metavar="NAME[:key=value],...")
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="Train every fusion with each value of a key of the recipe.", metavar="KEY=VALUE,VALUE")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds each row is trained with.", min=1)] = 3,
    match: Annotated[str | None, typer.Option(help="Bring all fusions to one budget.", metavar="params|macs")] = None,
    trials: Annotated[int, typer.Option(help="Learning rates per row, chosen on validation.", min=1)] = 1,
    task: Annotated[str | None, typer.Option(help="The task; the last stage's first where not given.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder; runs/compare-NAME where not given.")] = None,
    jobs: Annotated[int, typer.Option(help="Cells that are made at once, each in a process of its own.", min=1)] = 1,
    replay: Annotated[
        Path | None, typer.Option(help="A finished comparison: its statistics, page and table again.", metavar="FOLDER")
    ] = None,
    known_answers: Annotated[
        bool, typer.Option("--known-answers", help="Compare on built-in data whose answers are known, and check what is said of it.")
    ] = False,
) -> None:
    """Train a recipe with several fusions, each input alone, and what must stand beside them, and say what the fusion is worth.

    The same command goes on where an earlier one was stopped; what is done is kept.
    """
    if (recipe is not None) + (replay is not None) + known_answers != 1:
        raise typer.BadParameter("give one of: a recipe to compare fusions on, --known-answers, --replay FOLDER")
    import chiasm

    if known_answers:
        show_known(output, seeds, jobs)
        return
    if replay is not None:
        found = chiasm.replay(replay)
    else:
        found = chiasm.compare(
            str(recipe),
            fusions=fusion,
            vary=vary or (),
            seeds=seeds,
            match=match,
            trials=trials,
            task=task,
            output=output,
            jobs=jobs,
            overrides=overrides or [],
            progress=not settings["json"],
        )
    result({"comparison": str(found.folder), "summary": found.summary}, [*found.lines, f"wrote {found.folder}/comparison.html"])
    next_step(f"open {found.folder}/comparison.html", f"chiasm compare --replay {found.folder}")


def show_known(output: Path | None, seeds: int, jobs: int) -> None:
    """Run the cases with known answers; the exit code is 1 where the comparison did not tell the truth of one."""
    import chiasm

    found = chiasm.known_answers(output, seeds=seeds, jobs=jobs, progress=not settings["json"])
    wrong = [known.case for known in found if known.failures]
    total = f"{len(found) - len(wrong)} of {len(found)} known answers came out, in {sum(known.seconds for known in found) / 60:.1f} minutes"
    result([known.as_json() for known in found], [*(line for known in found for line in known.lines), total])
    if wrong:
        raise chiasm.ChiasmError(f"not as it must be: {', '.join(wrong)}; see the lines marked ! above")
