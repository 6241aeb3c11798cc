"""The model card of a run: what it reads, how it was trained, its scores with intervals and controls, how to use it, its limits."""

from __future__ import annotations

from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from chiasm.quantized import count_parameters
from chiasm.report.scores import Row, TaskScores, control_names, split_scores

CALLED = {"image": "images=[picture]", "audio": "audio=[sound]"}


def model_card(run: Any, recipe: dict[str, Any], title: str) -> str:
    """README.md of the exported folder; `recipe` is the run's, without paths of this machine."""
    scores = {split: split_scores(figures, run.details.get(split, {})) for split, figures in run.metrics.items()}
    parts = [
        "---\n" + card_data(run, title, scores).to_yaml() + "\n---\n",
        f"# {title}\n",
        f"A multimodal model made with the Python library Chiasm: {architecture(run)}.\n",
        "## What it reads\n\n" + reads(run),
        "## How to use it\n\n" + usage(run),
        "## How it was trained\n\n" + training(run, recipe),
        "## Scores\n\n" + score_tables(scores),
        "## Limits\n\n" + limits(run, scores),
    ]
    return "\n".join(parts)


def pipeline_tag(run: Any) -> str:
    modalities = {spec.modality for spec in run.recipe.inputs.values()}
    writes = any(task.writes for task in run.tasks.values())
    if writes:
        return "image-text-to-text" if modalities == {"image", "text"} else "any-to-any"
    return "feature-extraction"


def card_data(run: Any, title: str, scores: dict[str, list[TaskScores]]) -> ModelCardData:
    """The metadata block. No license is chosen here: that is the owner's to do."""
    pretrained = [part.model for part in (*run.recipe.encoders.values(), run.recipe.backbone) if part.model]
    tag = pipeline_tag(run)
    results = [
        EvalResult(
            task_type=tag,
            dataset_type="own",
            dataset_name=f"{split} split",
            metric_type=task.main.title,
            metric_name=f"{task.task} {task.main.title}",
            metric_value=task.main.real.value,
        )
        for split, found in scores.items()
        for task in found
        if task.main.real.value is not None
    ]
    named: dict[str, Any] = {"model_name": title, "eval_results": results} if results else {}
    inputs = sorted({spec.modality for spec in run.recipe.inputs.values()})
    tags = ["chiasm", "multimodal", f"fusion-{run.recipe.fusion.type}", *inputs]
    return ModelCardData(library_name="chiasm", pipeline_tag=tag, tags=tags, base_model=pretrained or None, **named)


def architecture(run: Any) -> str:
    config, count = run.model.config, count_parameters(run.model)
    encoders = [
        f"{name} by {spec['config']['model_type'] if spec.get('config') else spec['type']}" for name, spec in config.encoders.items()
    ]
    read = f"{', '.join(encoders)}, " if encoders else ""
    return f"{read}fusion `{config.fusion['type']}`, backbone {config.get_text_config().model_type}, {count:,} parameters"


def reads(run: Any) -> str:
    lines = ["| input | modality | prepared as |", "|---|---|---|"]
    for name, spec in run.model.config.inputs.items():
        options = {k: v for k, v in spec["options"].items() if k in ("size", "resize", "sampling_rate", "seconds") and v is not None}
        lines.append(f"| `{name}` | {spec['modality']} | {', '.join(f'{k} {v}' for k, v in options.items()) or '-'} |")
    tasks = [f"- `{name}`: {task_line(task)}" for name, task in run.tasks.items()]
    return "\n".join([*lines, "", "Its tasks:", "", *tasks]) + "\n"


def task_line(task: Any) -> str:
    kind = type(task).__name__.lower()
    if task.view == "towers":
        return f"{kind}, compares {' and '.join(task.sides)}"
    prompt = f', prompt "{task.prompt.text}"' if getattr(task, "prompt", None) is not None else ""
    return f"{kind} {', '.join(task.targets)}{prompt}"


def usage(run: Any) -> str:
    """Five lines for transformers where the model writes, for chiasm where a head decides."""
    writing = next((task for task in run.tasks.values() if task.writes), None)
    if writing is None:
        given = ", ".join(f"{name}=..." for name in run.recipe.inputs)
        code = [
            "import chiasm",
            "",
            'run = chiasm.load("FOLDER")   # hf download USER/NAME --local-dir FOLDER',
            f"print(run.predict([dict({given})]))",
        ]
    else:
        media = [CALLED[spec.modality] for spec in run.recipe.inputs.values() if spec.modality in CALLED]
        code = [
            "import chiasm  # so that transformers knows the model",
            "from transformers import AutoModelForMultimodalLM, AutoProcessor",
            "",
            'model, processor = AutoModelForMultimodalLM.from_pretrained("USER/NAME"), AutoProcessor.from_pretrained("USER/NAME")',
            f"inputs = processor(text={example_prompt(run, writing)!r}, {', '.join(dict.fromkeys(media))})",
            'written = model.generate(**inputs, max_new_tokens=32)[:, inputs["input_ids"].shape[1] :]',
            "print(processor.batch_decode(written, skip_special_tokens=True))",
        ]
    return "\n".join(["```python", *code, "```", ""])


def example_prompt(run: Any, task: Any) -> str:
    """The task's prompt with `...` for the user's words, and each placed input's token; a chat template's where the backbone has one."""
    if run.processor.reader is not None:
        return run.processor.reader.example(task.prompt, [name for name in run.processor.reads if name in task.reads])
    placed = set(run.model.config.placeholder_ids)
    words = []
    for piece, is_field in task.prompt.pieces:
        if not is_field:
            words.append(piece)
        elif task.declared.get(piece, "text") == "text":
            words.append("...")
        elif piece in placed:
            words.append(f"<{piece}>")
    return "".join(words).strip()


def training(run: Any, recipe: dict[str, Any]) -> str:
    counts = run.data_counts.get("train", {})
    rows = f"{counts['used']:,} rows of {counts['read']:,} read were used. " if counts else ""
    return f"{rows}The whole recipe:\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)}```\n"


def score_tables(scores: dict[str, list[TaskScores]]) -> str:
    """Per split and task the main figures as they are and under each control: an input shuffled between rows, or missing."""
    if not any(scores.values()):
        return "It was not evaluated.\n"
    parts = ["Brackets are 95 % intervals. A control takes one input away (missing) or gives that of another row (shuffled).\n"]
    for split, found in scores.items():
        for task in found:
            rows = [task.main, *task.others]
            controls = control_names(rows)
            parts += [f"### {split}: {task.task}\n", "| | score | " + "".join(f"{name} | " for name in controls)]
            parts.append("|---|---|" + "---|" * len(controls))
            parts += [score_line(row, controls) for row in rows]
            parts += ["", *(f"- {verdict}" for verdict in task.verdicts), ""]
    return "\n".join(parts)


def score_line(row: Row, controls: list[str]) -> str:
    cells = [row.controls[name].text if name in row.controls else "" for name in controls]
    return f"| {row.title} | {row.real.text} {row.real.interval} | " + "".join(f"{cell} | " for cell in cells)


def limits(run: Any, scores: dict[str, list[TaskScores]]) -> str:
    """What is known to be limited, from the run itself; nothing is claimed that was not measured."""
    longest = run.model.model.max_length
    lines = [
        "- It was measured on the splits above and nowhere else; on other data nothing is known of it.",
        *([f"- A text of more than {longest} tokens, pictures and sounds in it included, is refused."] if longest < 2**30 else []),
        *(["- No split was scored, so it is not known whether it uses its inputs."] if not any(scores.values()) else []),
        "- What its encoders, its backbone and its training data are biased to, it is biased to.",
    ]
    return "\n".join(lines) + "\n"
