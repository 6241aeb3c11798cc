"""The fusion strategies, read from their files without importing them: `chiasm recipes fusions` answers at once."""

from __future__ import annotations

import ast
import re

from chiasm_cli.output import next_step, result
from chiasm_cli.shelf import library

HOOKS = {"before": "before", "memory": "between", "between": "between", "after": "after"}  # what a fusion defines -> where it then acts
PLACES = {
    "before": "before the backbone's layers",
    "between": "between the layers",
    "after": "after the layers",
    "several": "at several places",
    "nowhere": "nowhere",
}


def list_fusions() -> None:
    """List the fusion strategies: where each acts, what it does, the paper."""
    found = strategies()
    width = max(len(strategy["name"]) for strategy in found)
    lines: list[str] = []
    for place, heading in PLACES.items():
        here = [strategy for strategy in found if strategy["acts"] == place]
        lines += [*([""] if lines else []), f"{heading}:"] if here else []
        for strategy in here:
            lines += [f"  {strategy['name']:<{width}}  {strategy['description']}", f"  {'':<{width}}  {strategy['paper']}"]
    result(found, lines)
    next_step("chiasm train RECIPE fusion=NAME   the same run with another fusion")


def strategies() -> list[dict[str, str]]:
    """{"name", "acts", "description", "paper"} of every fusion, read from its file: docstring, hooks that it defines, `paper`."""
    folder = library() / "fusion"
    bases = classes(ast.parse((folder / "base.py").read_text(encoding="utf-8")), {"Fusion"})
    found = []
    for file in sorted(folder.glob("*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        for kind in classes(module, {"Fusion", *(base.name for base in bases)}) if file.stem != "base" else ():
            hooks = {HOOKS[item.name] for item in kind.body if isinstance(item, ast.FunctionDef) and item.name in HOOKS}
            acts = "several" if len(hooks) > 1 else next(iter(hooks), "nowhere")
            said = re.sub(r" \([^()]*\)\.$", ".", (ast.get_docstring(module) or "").partition("\n")[0])  # systems stand in `paper`
            found.append({"name": file.stem, "acts": acts, "description": said, "paper": constant(kind, "paper")})
    return found


def classes(module: ast.Module, bases: set[str]) -> list[ast.ClassDef]:
    """The public classes of a module that are built on one of `bases`."""
    found = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    return [node for node in found if any(isinstance(base, ast.Name) and base.id in bases for base in node.bases)]


def constant(kind: ast.ClassDef, name: str) -> str:
    """A text that a class gives `name`; "" where it gives none."""
    for item in kind.body:
        if isinstance(item, ast.Assign) and any(isinstance(target, ast.Name) and target.id == name for target in item.targets):
            return str(ast.literal_eval(item.value))
    return ""
