"""`chiasm convert`: a transformers checkpoint -> a run that gives the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.output import next_step, result, table


def convert(
    checkpoint: Annotated[str, typer.Argument(help="A folder that save_pretrained wrote, or a name on the Hub.")],
    run: Annotated[Path, typer.Argument(help="The run folder to make.")],
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer's name or folder, where the checkpoint brings none.")] = None,
) -> None:
    """Make a run of a transformers checkpoint: VisionEncoderDecoder, CLIP, SigLIP, LLaVA, VisualBERT."""
    import chiasm

    done = chiasm.convert(checkpoint, run, tokenizer=tokenizer)
    lines = [f"{done.system}: {done.parameters:,} parameters in {done.folder}", "largest difference from transformers on a random input:"]
    lines += [f"  {line}" for line in table((name, f"{value:.1e}") for name, value in done.differences.items())]
    for what, names in (("not taken over", done.dropped), ("not from the checkpoint", done.fresh)):
        lines += [f"{what}: {name} ({why})" for name, why in grouped(names).items()]
    facts = {"differences": done.differences, "dropped": done.dropped, "fresh": done.fresh}
    result({"run": str(done.folder), "system": done.system, "parameters": done.parameters, **facts}, lines)
    ask = [f"chiasm ask {run} --image PICTURE" + ("" if done.inputs == ("image",) else ' "TEXT"')] if "image" in done.inputs else []
    next_step(*ask, f"chiasm predict {run} INPUT.jsonl --output OUT.jsonl", f"chiasm evaluate {run} --data DATA.jsonl")


def grouped(names: dict[str, str]) -> dict[str, str]:
    """Weights with the same reason in one line: the first of them and how many more."""
    reasons: dict[str, list[str]] = {}
    for name, why in names.items():
        reasons.setdefault(why, []).append(name)
    return {found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else ""): why for why, found in reasons.items()}
