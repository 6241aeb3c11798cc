"""Ask the same rows under every condition, and score what is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.audit.endpoint import Endpoint
from chiasm.audit.local import Local, run_at, whole_model
from chiasm.audit.result import TASK, TEXT_ONLY, Audit, conclude
from chiasm.audit.rows import Asked, read
from chiasm.data.collate import exchange
from chiasm.data.opening import open_file
from chiasm.data.randomness import generator
from chiasm.evaluation.scoring import Answers
from chiasm.run import runs_beside
from chiasm.types import ChiasmError, Prediction

SCORES = ("exact_match", "contains")
Condition = tuple[str, str]  # (input, "shuffled" | "missing"); (TEXT_ONLY, "missing"): all but the texts
Answerer = Local | Endpoint
REAL: Condition = ("", "")


def audit(
    model: str | Path,
    data: str | Path,
    *,
    rows: int | None = None,
    name: str | None = None,
    task: str | None = None,
    question: str | None = None,
    answer: str | None = None,
    score: str | None = None,
    max_tokens: int = 32,
    kept: str | Path | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Whether a model uses its inputs, on rows of a file.

    `model`: a run folder, a vision-language model of transformers (folder or name), or the address of an OpenAI-compatible server, with
    `name` the model that it is asked for. `rows`: only so many, drawn evenly. `question`, `answer`: columns that are not called so.
    `score`: exact_match or contains. `kept`: of a server, the file in which answers are kept, so that an audit can go on where it
    stopped. `announce` is told what it will cost before it begins. Ctrl-C, or a server that fails, ends it early with what was measured.
    """
    if score is not None and score not in SCORES:
        raise ChiasmError(f"score: '{score}' is not one of {', '.join(SCORES)}")
    columns = list(open_file(data).columns)
    settings = {"columns": columns, "question": question, "answer": answer, "score": score}
    answerer = _answerer(str(model), settings, name=name, task=task, tokens=max_tokens, kept=None if kept is None else Path(kept))
    asked, refused = read(data, rows, answerer.asked)
    plan, notes = conditions(answerer.inputs, asked)
    total = sum(len(_having(asked, condition)) for condition in plan)
    if announce is not None:
        announce(f"{answerer.title}: {len(asked)} rows x {len(plan)} conditions = {answerer.what.format(total)}")
    found = Answers(TASK, (answerer.score,))
    stopped = _ask(answerer, asked, plan, found, total, progress)
    notes += [f"{len(refused)} rows could not be used, e.g. {refused[0]}"] if refused else []
    if stopped:
        notes.append(f"stopped after {len(found.real)} of {len(asked)} rows: {stopped}")
    if not found.real:
        raise ChiasmError(stopped or "no row was answered")
    return conclude(found, title=answerer.title, data=str(data), inputs=answerer.inputs, notes=notes)


def _answerer(model: str, settings: Mapping[str, Any], *, name: str | None, task: str | None, tokens: int, kept: Path | None) -> Answerer:
    if model.startswith(("http://", "https://")):
        return Endpoint(model, name, tokens=tokens, kept=kept, **settings)
    if _means_a_run(model):
        return run_at(Path(model), task=task, **settings)
    return whole_model(model, tokens=tokens, **settings)


def _means_a_run(model: str) -> bool:
    """A folder that is no checkpoint, or a path that is not there: beside runs, or written as no name on the Hub (owner/name) can be."""
    folder = Path(model)
    if folder.exists():
        return folder.is_dir() and ((folder / "recipe.yaml").is_file() or not (folder / "config.json").is_file())
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or ("/" in model and bool(runs_beside(folder)))


def conditions(inputs: Mapping[str, str], rows: Sequence[Asked]) -> tuple[dict[Condition, list[int | None]], list[str]]:
    """(condition -> for every row whose part it gets instead, None for its own or none; notes). Real comes first."""
    plan: dict[Condition, list[int | None]] = {REAL: [None] * len(rows)}
    notes = []
    media = [name for name, modality in inputs.items() if modality != "text"]
    for name in inputs:
        having = [place for place, row in enumerate(rows) if name in row.parts]
        if not having:
            notes.append(f"no row has `{name}`")
            continue
        draws = generator("audit", "shuffled", name, len(having))
        sources = exchange([repr(rows[place].parts[name]) for place in having], draws)
        if sources is None:
            notes.append(f"`{name}` is the same in all rows, so it cannot be shuffled")
        else:
            taken = dict(zip(having, (having[source] for source in sources), strict=True))
            plan[name, "shuffled"] = [taken.get(place) for place in range(len(rows))]
        if name in media and len(inputs) > 1:
            plan[name, "missing"] = [None] * len(rows)
    if len(media) > 1 and len(inputs) > len(media):
        plan[TEXT_ONLY, "missing"] = [None] * len(rows)
    return plan, notes


def _having(rows: Sequence[Asked], condition: Condition) -> list[int]:
    """The rows that a condition changes; the others answer as they did."""
    name, _ = condition
    if name in ("", TEXT_ONLY):
        return list(range(len(rows)))
    return [place for place, row in enumerate(rows) if name in row.parts]


def _ask(
    answerer: Answerer,
    rows: Sequence[Asked],
    plan: Mapping[Condition, Sequence[int | None]],
    found: Answers,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> str:
    """Fill `found`, a few rows at a time under all conditions, so that what is there when it stops is paired; returns why it stopped."""
    done = 0
    try:
        for start in range(0, len(rows), answerer.at_once):
            places = range(start, min(len(rows), start + answerer.at_once))
            said: dict[Condition, dict[int, str | None]] = {}
            for condition, sources in plan.items():
                changed = [place for place in _having(rows, condition) if place in places]
                given = [_given(answerer.inputs, rows, place, condition, sources[place]) for place in changed]
                said[condition] = dict(zip(changed, answerer.answers(given) if given else [], strict=True))
                done += len(changed)
                if progress is not None:
                    progress(done, total)
            _keep(rows, places, said, found)
    except KeyboardInterrupt:
        return "Ctrl-C"
    except ChiasmError as error:
        if not found.real:
            raise
        return str(error)
    return ""


def _given(inputs: Mapping[str, str], rows: Sequence[Asked], place: int, condition: Condition, source: int | None) -> dict[str, Any]:
    """A row's parts under a condition."""
    (name, how), parts = condition, dict(rows[place].parts)
    if name == TEXT_ONLY:
        return {key: value for key, value in parts.items() if inputs.get(key, "text") == "text"}
    if how == "missing":
        del parts[name]
    elif source is not None:
        parts[name] = rows[source].parts[name]
    return parts


def _keep(rows: Sequence[Asked], places: Sequence[int], said: Mapping[Condition, Mapping[int, str | None]], found: Answers) -> None:
    """Add a few rows' answers under every condition."""
    for condition, answers in said.items():
        outputs = [answers.get(place, said[REAL][place]) for place in places]
        made = [Prediction(rows[place].id, TASK, output, rows[place].target) for place, output in zip(places, outputs, strict=True)]
        if condition == REAL:
            found.real += made
        elif condition[0] == TEXT_ONLY:
            found.references.setdefault(TEXT_ONLY, []).extend(made)
        else:
            found.controls.setdefault(condition, []).extend(made)
    for place in places:
        for name, value in rows[place].parts.items():
            found.present.setdefault(name, set()).add(rows[place].id)
            if not isinstance(value, str) or name in ("image", "audio", "video"):
                found.media.setdefault(name, {})[rows[place].id] = repr(value)
