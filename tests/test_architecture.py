"""What the README's tree promises: imports flow one way, siblings keep apart, files and functions stay short, and help is quick."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
FILES = sorted(SOURCE.rglob("*.py"))
PYTHON = [path for folder in ("src", "tests", "scripts", "bench", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]

# From the first to the last: a module imports from its own line or from lines above it.
LAYERS = [
    ["types"],
    ["components"],
    [
        "recipe",
        "recipe_base",
        "recipe_check",
        "recipe_errors",
        "recipe_override",
        "recipe_paths",
        "recipe_schema",
        "recipe_streams",
        "recipe_yaml",
    ],
    ["media"],
    ["data"],
    ["encoders"],
    ["connectors", "backbones", "fusion"],
    ["metrics"],
    ["tasks"],
    [
        "config",
        "reading",
        "conventions",
        "processing",
        "chat_template",
        "framing",
        "outputs",
        "adapters",
        "quantized",
        "decoding",
        "embedding",
        "notes",
    ],
    ["composite", "generation", "model", "loading", "preprocessing", "model_files", "whole", "assemble"],
    ["evaluation"],
    ["training"],
    ["report"],
    ["run"],
    ["convert", "export", "explain", "retrieval", "conversation", "prediction"],
    ["check"],
    ["compare", "audit"],
    ["serve"],
]
COMPONENT_FOLDERS = ["media", "data/sources", "encoders", "connectors", "backbones", "fusion", "metrics", "tasks"]
ATTICS = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py", "constants.py"}


def name_of(file: Path) -> str:
    """src/chiasm/data/order.py -> chiasm.data.order."""
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write the import in full"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def layer_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "chiasm" or len(parts) == 1:
        return None
    return next((i for i, layer in enumerate(LAYERS) if parts[1] in layer), None)


def test_every_part_has_its_layer():
    parts = {path.stem for path in (SOURCE / "chiasm").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    assert parts <= {name for layer in LAYERS for name in layer}


def test_imports_flow_one_way():
    wrong = []
    for file in FILES:
        own = layer_of(name_of(file))
        for module, line in imports(file):
            other = layer_of(module)
            if own is not None and other is not None and other > own:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {name_of(file)} must not import {module}")
    assert not wrong, "\n".join(wrong)


def test_the_library_does_not_import_its_command_line():
    own = [file for file in FILES if file.is_relative_to(SOURCE / "chiasm")]  # wherever the repository lies
    wrong = [f"{file}:{line}" for file in own for module, line in imports(file) if module.startswith("chiasm_cli")]
    assert own
    assert not wrong, "\n".join(wrong)


def test_commands_import_the_library_only_when_they_are_called():
    for file in (SOURCE / "chiasm_cli").glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            for inner in [node] if isinstance(node, ast.Import | ast.ImportFrom) else []:
                names = [inner.module or ""] if isinstance(inner, ast.ImportFrom) else [alias.name for alias in inner.names]
                assert not any(name.split(".")[0] in ("chiasm", "torch", "numpy", "rich") for name in names), f"{file.name}:{inner.lineno}"


@pytest.mark.parametrize("folder", COMPONENT_FOLDERS)
def test_siblings_keep_apart(folder: str):
    """A component imports its folder's base.py, and modules of the folder that are no components themselves."""
    package = "chiasm." + folder.replace("/", ".")
    components = {file.stem for file in (SOURCE / "chiasm" / folder).glob("*.py") if is_component(file)}
    wrong = []
    for file in (SOURCE / "chiasm" / folder).glob("*.py"):
        for module, line in imports(file):
            parent, _, name = module.rpartition(".")
            if parent == package and name in components and name != file.stem:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: imports its sibling {name}")
    assert not wrong, "\n".join(wrong)


def is_component(file: Path) -> bool:
    """Whether a module defines a public class on its folder's base class."""
    if file.stem in ("base", "__init__") or file.stem.startswith("_"):
        return False
    bases = {"Modality", "Source", "FileSource", "Encoder", "Connector", "Backbone", "Fusion", "Metric", "MeanError", "ClassArea", "Task"}
    classes = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    return any(isinstance(base, ast.Name) and base.id in bases for node in classes for base in node.bases)


def test_files_and_functions_are_short():
    wrong = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > 400:
            wrong.append(f"{file.relative_to(ROOT)}: {lines} lines (400)")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 60:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.name} has more than 60 lines")
    assert not wrong, "\n".join(wrong)


def test_names_say_what_is_inside():
    assert not [str(file) for file in PYTHON if file.name in ATTICS]


def test_every_module_says_what_it_is():
    assert not [str(file.relative_to(ROOT)) for file in PYTHON if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]


def test_media_is_the_only_gateway():
    """Pillow, PyAV and soundfile open files in media/ only; the built-in pictures may be drawn with Pillow."""
    wrong = []
    for file in FILES:
        folders = file.relative_to(SOURCE).parts
        for module, line in imports(file):
            gateway = module.split(".")[0] in ("PIL", "av", "soundfile") and folders[:2] != ("chiasm", "media")
            drawing = folders[:3] == ("chiasm", "data", "scenes") and module.split(".")[0] == "PIL"
            if gateway and not drawing:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {module}")
    assert not wrong, "\n".join(wrong)


def test_drawn_pictures_open_no_file_with_pillow():
    for file in (SOURCE / "chiasm" / "data" / "scenes").glob("*.py"):
        assert "Image.open(" not in file.read_text(encoding="utf-8"), file


def test_no_pickle():
    wrong = []
    for file in FILES:
        wrong += [
            f"{file}:{line}: {module}"
            for module, line in imports(file)
            if module.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "shelve")
        ]
        wrong += [
            f"{file}: {call}" for call in ("torch.load(", "torch.save(", "allow_pickle=True") if call in file.read_text(encoding="utf-8")
        ]
    assert not wrong, "\n".join(wrong)


def test_data_code_draws_from_its_own_generators_only():
    """Every draw for a sample is f(seed, epoch, sample id): no `random`, and no global generator of numpy or torch."""
    call = re.compile(
        r"\b(?:np|numpy)\.random\.(?!default_rng|Generator|SeedSequence|PCG64|Philox|BitGenerator)\w+|\btorch\.rand\w*\(|\btorch\.manual_seed\("
    )
    wrong = []
    for file in FILES:
        if file.relative_to(SOURCE).parts[1:2] not in (("data",), ("media",)):
            continue
        wrong += [f"{file}:{line}: {module}" for module, line in imports(file) if module.split(".")[0] == "random"]
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if (found := call.search(line)) and "generator=" not in line:
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {found[0]}")
    assert not wrong, "\n".join(wrong)


def test_no_error_is_swallowed():
    wrong = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and (node.type is None or all(isinstance(inner, ast.Pass) for inner in node.body)):
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["recipes"], ["recipes", "list", "--json"], ["recipes", "fusions"], ["train", "--help"], ["trian"]]
)
def test_help_and_recipes_do_not_import_torch(arguments: list[str]):
    code = (
        "import sys; from chiasm_cli.main import run; run(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'transformers', 'chiasm', 'rich', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
