"""The command line: what it passes on, what it prints, and how it fails. The library behind it is a stand-in here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chiasm import components
from chiasm.fusion.base import Fusion
from chiasm.recipe_errors import RecipeProblems
from chiasm.types import ChiasmError, NonFiniteError
from chiasm_cli import fusions, recipes, shelf, train
from chiasm_cli.main import COMMANDS, run
from chiasm_cli.scores import score_table

METRICS = {"test": {"answer.exact_match": 0.947, "answer.exact_match[image shuffled]": 0.19, "align.recall@1[image->caption]": 0.99}}


class StandIn:
    """Remembers what the commands ask of the library."""

    def __init__(self, error: BaseException | None = None):
        self.calls: list[tuple[Any, ...]] = []
        self.error = error
        self.run = SimpleNamespace(
            folder=Path("runs/x"),
            recipe=SimpleNamespace(inputs={"image": SimpleNamespace(modality="image"), "question": SimpleNamespace(modality="text")}),
            metrics=METRICS,
            details={},
            evaluate=lambda split, **more: (
                self.note("evaluate", split, more)
                or SimpleNamespace(
                    metrics=METRICS["test"], verdicts=["image is used"], notes=[], to_json=lambda: {"metrics": METRICS["test"]}
                )
            ),
            answer=lambda **given: self.note("answer", given) or "red",
            notes=lambda row, task: ["no audio was given"] if "question" in row else [],
            examples=lambda: ["  what ? -> sun"],
        )

    def note(self, *call: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(call)

    def train(self, recipe: Any, **more: Any) -> Any:
        self.note("train", recipe, more)
        return self.run

    def compare(self, recipe: str, **more: Any) -> Any:
        self.note("compare", recipe, more)
        return SimpleNamespace(folder=Path("runs/compare-x"), summary={"verdict": "a tie"}, lines=["early 0.9", "a tie"])

    def replay(self, folder: Path) -> Any:
        self.note("replay", folder)
        return SimpleNamespace(folder=folder, summary={"verdict": "a tie"}, lines=["early 0.9", "a tie"])

    def load(self, folder: Path) -> Any:
        self.note("load", folder)
        return self.run

    def predict_file(self, run: Any, source: Path, output: Path, **more: Any) -> Any:
        self.note("predict", source, output)
        missing = () if more["shard"] is None else (2, 3)
        return SimpleNamespace(rows=4, refused={"bad_json": 1}, whole=not missing, before=source.stem == "again", missing=missing)

    def init(self, data: Path, *, target: str | None) -> str:
        self.note("init", data, target)
        return "inputs: {a: text}\n"

    def check(self, target: str, *, overrides: list[str]) -> Any:
        self.note("check", target, overrides)
        problems = ["r.yaml:1: wrong", "r.yaml:2: wrong too"] if target == "bad" else []
        return SimpleNamespace(lines=["12 parameters"], problems=problems, is_recipe=True, to_json=lambda: {"problems": problems})


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"image": "image", "audio": "audio", "caption": "text"}, "chiasm ask runs/x --image FILE --audio FILE --input caption=VALUE"),
        ({"words": "features", "question": "text"}, "chiasm predict runs/x INPUT.jsonl --output OUT.jsonl"),
    ],
)
def test_the_next_step_fits_the_inputs(inputs: dict[str, str], said: str):
    run = SimpleNamespace(folder=Path("runs/x"))
    run.recipe = SimpleNamespace(inputs={name: SimpleNamespace(modality=modality) for name, modality in inputs.items()})
    assert train.asking(run) == said


def test_check_repeats_its_overrides_in_the_next_step(library: StandIn, capsys: pytest.CaptureFixture[str]):
    assert run(["check", "demo", "data.root=my files"]) == 0
    assert "chiasm train demo 'data.root=my files'" in capsys.readouterr().err


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "chiasm", stand_in)
    return stand_in


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "demo.yaml").write_text("# Answers about pictures.\n# group: start here\ninputs: {image: image}\n", encoding="utf-8")
    (folder / "vqa.yaml").write_text("# group: real data\n# Yes and no.\ninputs: {image: image}\n", encoding="utf-8")
    for module in (recipes, shelf):
        monkeypatch.setattr(module, "files", lambda: sorted(folder.glob("*.yaml")))
    return folder


def test_train_passes_its_arguments_on_and_names_the_next_step(library: StandIn, capsys: pytest.CaptureFixture[str]):
    assert run(["train", "demo", "stages.0.steps=10", "train.seed=1", "--output", "runs/a b", "--resume"]) == 0
    more = {
        "output": Path("runs/a b"),
        "resume": True,
        "allow_changed": False,
        "overrides": ["stages.0.steps=10", "train.seed=1"],
        "progress": True,
    }
    assert library.calls == [("train", "demo", more)]
    said = capsys.readouterr()
    assert "0.947" in said.out
    assert "Next:" in said.err and 'chiasm ask runs/x --image FILE "question"' in said.err
    assert "\x1b" not in said.out + said.err


def test_compare_passes_its_arguments_on(library: StandIn, capsys: pytest.CaptureFixture[str]):
    assert run(["compare", "demo", "train.seed=1", "--fusion", "early,late:combine=sum", "--seeds", "2", "--match", "macs"]) == 0
    more = {
        "fusions": "early,late:combine=sum",
        "vary": (),
        "seeds": 2,
        "match": "macs",
        "trials": 1,
        "task": None,
        "output": None,
        "jobs": 1,
    }
    assert library.calls == [("compare", "demo", {**more, "overrides": ["train.seed=1"], "progress": True})]
    said = capsys.readouterr()
    assert said.out == "early 0.9\na tie\nwrote runs/compare-x/comparison.html\n"
    assert "Next:" in said.err and "chiasm compare --replay runs/compare-x" in said.err
    assert run(["compare", "--replay", "runs/compare-x"]) == 0
    assert library.calls[-1] == ("replay", Path("runs/compare-x"))


def test_the_other_commands_pass_their_arguments_on(library: StandIn, tmp_path: Path):
    question = "what colour is the 太阳 ?"
    assert run(["evaluate", "runs/x", "--split", "validation"]) == 0
    assert run(["evaluate", "runs/x", "--data", "own.jsonl"]) == 0
    assert run(["predict", "runs/x", "in.jsonl", "--output", "out.jsonl"]) == 0
    assert run(["ask", "runs/x", "--image", "a.png", question]) == 0
    assert run(["ask", "runs/x", "--audio", "a.wav", "--input", "age=3", "--task", "kind"]) == 0
    assert run(["init", "data.csv", "--target", "label"]) == 0
    assert run(["check", "r.yaml", "train.seed=1"]) == 0
    assert run(["demo", "stages.0.steps=1", "--output", str(tmp_path)]) == 0
    calls = [call for call in library.calls if call[0] != "load"]
    assert calls[0][:2] == ("evaluate", "validation")
    assert calls[1][2]["data"] == Path("own.jsonl")
    assert calls[2] == ("predict", Path("in.jsonl"), Path("out.jsonl"))
    assert calls[3] == ("answer", {"task": None, "question": question, "image": Path("a.png")})
    assert calls[4] == ("answer", {"task": "kind", "audio": Path("a.wav"), "age": "3"})
    assert calls[5] == ("init", Path("data.csv"), "label")
    assert calls[6] == ("check", "r.yaml", ["train.seed=1"])
    assert calls[7][1] == "demo"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "demo"],
        ["evaluate", "runs/x"],
        ["predict", "runs/x", "in.jsonl", "-o", "out.jsonl"],
        ["ask", "runs/x", "who"],
        ["init", "data.csv"],
        ["check", "good"],
        ["check", "bad"],
        ["compare", "demo"],
        ["compare", "--replay", "runs/compare-x"],
        ["compare"],
        ["demo"],
        ["recipes"],
        ["recipes", "show", "demo"],
        ["recipes", "show", "demoo"],
        ["recipes", "fusions"],
        ["data", "export", "scnes", "x"],
        ["train"],
        ["trian"],
        ["ask", "runs/x"],
    ],
)
def test_json_output_parses_errors_included(library: StandIn, shipped: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]):
    code = run([*arguments, "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert ("error" in found) == (code != 0 and arguments[0] != "check")
    assert said.err == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ChiasmError("r.yaml:3: unknown key"), 2, "error: r.yaml:3: unknown key"),
        (RecipeProblems(["r.yaml:3: a", "r.yaml:4: b"]), 2, "error: r.yaml:3: a (and 1 more"),
        (NonFiniteError("3 steps in a row\nhad NaN"), 3, "error: 3 steps in a row had NaN"),
        (FileNotFoundError(2, "No such file or directory", "x y.png"), 2, "error: x y.png: no such file or directory"),
        (KeyboardInterrupt(), 130, "error: stopped"),
        (SystemExit(143), 143, "error: terminated"),
        (ZeroDivisionError("division by zero"), 1, "error: internal error: ZeroDivisionError"),
    ],
)
def test_every_error_is_one_line_and_an_exit_code(
    library: StandIn, error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    library.error = error
    assert run(["train", "demo"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(message)
    assert len(said.err.splitlines()) == 1


def test_debug_shows_the_traceback(library: StandIn, capsys: pytest.CaptureFixture[str]):
    library.error = ChiasmError("wrong")
    assert run(["train", "demo", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "demo"], "error: no command 'trian'; did you mean 'chiasm train'?"),
        (["train"], "error: Missing argument"),
        (["train", "demo", "--outptu", "x"], "--output"),
        (["evaluate", "r", "--split", "test", "--data", "x"], "exclude each other"),
        (["ask", "runs/x", "--input", "age"], "--input age: write NAME=VALUE"),
        (["recipes", "show", "dmo"], "no recipe 'dmo'; did you mean 'demo'?"),
        (["data", "export", "scnes", "x"], "'scnes' is not one of 'scenes'"),
        (["data"], "Missing command"),
        (["explain", "runs/x", "who", "--level", "pixel"], "'pixel' is not one of 'modality', 'token' ("),
        (["audit", "runs/x", "--data", "x", "--score", "exact"], "'exact' is not one of 'exact_match', 'contains' ("),
        (["predict", "runs/x", "in.jsonl", "-o", "out.jsonl", "--shard", "5/4"], "shard 5/4: write I/N with I from 1 to N"),
        (["search", "index", " "], 'the words are empty; give some, e.g. chiasm search INDEX "a red sun"'),
        (["classify", "runs/x", "--labels", "a,b"], "e.g. chiasm classify RUN --labels cat,dog --image FILE"),
    ],
)
def test_a_wrong_command_line(library: StandIn, shipped: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "endings"),
    [
        (["explain", "runs/x", "who"], ".html or .json"),
        (["audit", "runs/x", "--data", "x.jsonl"], ".html or .json"),
        (["predict", "runs/x", "in.jsonl"], ".jsonl or .csv or .parquet"),
        (["index", "runs/x", "in.jsonl"], ""),
    ],
)
def test_an_output_is_looked_at_before_the_work(
    library: StandIn, tmp_path: Path, command: list[str], endings: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    ending = endings.partition(" ")[0]
    wrong = {tmp_path: ": a folder; name a file" if endings else ": exists already", tmp_path / "file" / f"x{ending}": "not a directory"}
    if endings:
        wrong[tmp_path / "x.txt"] = f"end it on {endings}"
    for output, message in wrong.items():
        assert run([*command, "--output", str(output)]) == 2
        assert (said := capsys.readouterr().err).startswith(f"error: --output {output}: ") and message in said
    assert library.calls == [] and sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_predict_says_what_is_left_and_what_was_there(library: StandIn, capsys: pytest.CaptureFixture[str]):
    assert run(["predict", "runs/x", "in.jsonl", "-o", "out.jsonl", "--shard", "1/3", "--task", "answer"]) == 0
    left = [f"  chiasm predict runs/x in.jsonl --output out.jsonl --task answer --shard {n}/3" for n in (2, 3)]
    assert capsys.readouterr().err.splitlines() == ["", "Next:", *left]
    assert run(["predict", "runs/x", "again.jsonl", "-o", "out.jsonl"]) == 0
    assert "out.jsonl was there already" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]):
    assert run(["--version"]) == 0 and run(["--version", "--json"]) == 0
    version = metadata.version("chiasm")
    assert capsys.readouterr().out.splitlines() == [f"chiasm {version}", json.dumps({"version": version})]


def test_a_chat_is_for_people(library: StandIn, capsys: pytest.CaptureFixture[str]):
    assert run(["ask", "runs/x", "--json"]) == 2
    assert "nothing to ask" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_check_prints_every_problem(library: StandIn, capsys: pytest.CaptureFixture[str]):
    assert run(["check", "bad"]) == 2
    assert [line for line in capsys.readouterr().out.splitlines() if "wrong" in line] == [
        "problem: r.yaml:1: wrong",
        "problem: r.yaml:2: wrong too",
    ]


def test_recipes_are_listed_by_group_and_copied(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert run(["recipes"]) == 0
    assert capsys.readouterr().out == "start here:\n  demo  Answers about pictures.\n\nreal data:\n  vqa   Yes and no.\n"
    assert run(["recipes", "copy", "demo"]) == 0
    assert (tmp_path / "demo.yaml").read_text("utf-8") == (shipped / "demo.yaml").read_text("utf-8")
    assert run(["recipes", "copy", "demo"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(["recipes", "copy", "demo", "--output", "文 件.yaml"]) == 0


def test_fusions_are_listed_as_the_code_has_them(capsys: pytest.CaptureFixture[str]):
    """Files are read, not imported; here they are compared with the classes."""
    assert run(["recipes", "fusions", "--json"]) == 0
    found = {strategy["name"]: strategy for strategy in json.loads(capsys.readouterr().out)}
    assert list(found) == components.names("fusion")
    for name, strategy in found.items():
        kind = components.find("fusion", name)
        hooks = {hook for hook in ("before", "between", "after", "memory") if getattr(kind, hook) is not getattr(Fusion, hook)}
        places = {hook.replace("memory", "between") for hook in hooks}
        assert strategy["acts"] == ("several" if len(places) > 1 else next(iter(places), "nowhere"))
        assert strategy["paper"] == kind.paper != "", f"{name}: give the class its `paper`"
        said = " ".join(str(sys.modules[kind.__module__].__doc__).split())
        assert len(strategy["description"]) > 20 and said.startswith(strategy["description"][:-1])
    assert run(["recipes", "fusions"]) == 0
    shown = capsys.readouterr().out
    groups = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert groups == ["before the backbone's layers:", "between the layers:", "after the layers:", "at several places:", "nowhere:"]
    assert all(f"\n  {name} " in shown and strategy["paper"] in shown for name, strategy in found.items())


def test_a_new_fusion_file_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "fusion").mkdir()
    for name in ("base.py", "late.py", "combine.py", "attention.py"):
        (tmp_path / "fusion" / name).write_text((shelf.library() / "fusion" / name).read_text("utf-8"), encoding="utf-8")
    new = (
        '"""Both ends (a test)."""\n\nclass Both(LayerFusion):\n    paper = "none"\n    def before(self): ...\n    def between(self): ...\n'
    )
    (tmp_path / "fusion" / "both.py").write_text(new, encoding="utf-8")
    monkeypatch.setattr(fusions, "library", lambda: tmp_path)
    both, late = fusions.strategies()
    assert both == {"name": "both", "acts": "several", "description": "Both ends.", "paper": "none"}
    assert (late["name"], late["acts"]) == ("late", "after")


def test_scores_stand_beside_their_controls():
    lines = score_table(METRICS)
    assert "test answer" in lines[0]
    assert any("as it is" in line and "0.947" in line for line in lines)
    assert any("image shuffled" in line and "0.190" in line for line in lines)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert run([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    for name in COMMANDS:
        assert run([name, "--help"]) == 0


def chiasm(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "chiasm_cli", *arguments], stderr=subprocess.PIPE, text=True, **more)


def test_a_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with chiasm("--help", stdout=writer) as process:
        os.close(writer)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(tmp_path: Path, number: int, code: int):
    (tmp_path / "chiasm").mkdir()
    text = "import time\ndef train(*a, **k):\n    print('ready', flush=True)\n    time.sleep(60)\n"
    (tmp_path / "chiasm" / "__init__.py").write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell that runs the tests in the background ignores it
    with chiasm("train", "demo", stdout=subprocess.PIPE, env=environment, preexec_fn=default) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert len(said.splitlines()) == 1


def test_help_and_recipes_are_quick():
    """The goal is 100 ms of CPU on an idle machine (`make bench` measures it); here only a limit against importing something heavy."""
    for arguments in (["--help"], ["recipes"]):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "chiasm_cli", *arguments], capture_output=True, check=True)
        assert time.perf_counter() - started < 5
