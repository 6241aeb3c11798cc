#!/usr/bin/env python3
"""Makes .venv with everything the project needs, and the PyTorch that fits this machine. Standard library only; a second call is instant.

PyTorch, in this order: the one that is in .venv already; a wheel from pip's own find-links; on Linux without an NVIDIA GPU the CPU
build; else the build that fits the driver. Where none of them works it stops with a message: it never falls back to gigabytes of CUDA.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENV = ROOT / ".venv"
PYTHON = ENV / ("Scripts" if os.name == "nt" else "bin") / ("python.exe" if os.name == "nt" else "python")
STAMP = ENV / "chiasm-setup.txt"
CONSTRAINTS = ROOT / "constraints.txt"
TORCH_HELP = """PyTorch could not be installed for this machine ({tried}).
Nothing bigger was tried. Either install it yourself:   .venv/bin/python -m pip install <your torch 2.13 wheel>
or name a folder that has its wheel:                    export PIP_FIND_LINKS=/that/folder
and then run this again:                                make setup"""


def main() -> None:
    """Set up, or do nothing where the stamp says that it is done."""
    find_python()
    wanted = fingerprint()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    make_environment()
    install_torch()
    install_project()
    STAMP.write_text(wanted, encoding="utf-8")
    print("Ready. Next: `make demo`, or `.venv/bin/chiasm --help`.")


def find_python() -> None:
    """Go on under a newer Python where this one is too old and there is one."""
    if sys.version_info >= (3, 11):
        return
    for name in ("python3.13", "python3.12", "python3.11"):
        found = shutil.which(name)
        if found:
            os.execv(found, [found, *sys.argv])
    sys.exit(
        f"Python 3.11 or newer is needed; this is {platform.python_version()} and no python3.11, python3.12 or python3.13 is on the PATH."
    )


def fingerprint() -> str:
    """Changes where the set-up has to be done again."""
    content = b"\0".join([bytes(ROOT), CONSTRAINTS.read_bytes(), (ROOT / "pyproject.toml").read_bytes()])
    return hashlib.sha256(content).hexdigest()


def make_environment() -> None:
    """An empty .venv with pip; one whose Python is gone is made anew."""
    if succeeds(PYTHON, "-m", "pip", "--version"):
        return
    print("Making .venv ...", flush=True)
    if not succeeds(sys.executable, "-m", "venv", "--clear", ENV):
        sys.exit("Could not make .venv. On Debian or Ubuntu: apt install python3-venv, and run this again.")


def install_torch() -> None:
    """Make `import torch` work, in the order that the first lines of this file give."""
    if succeeds(PYTHON, "-c", "import torch"):
        return
    torch = next(line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    print(f"Installing {torch} (some minutes) ...", flush=True)
    gpu = shutil.which("nvidia-smi") is not None and succeeds("nvidia-smi", "-L")
    if succeeds(*pip("--no-index", "--no-deps", torch)):
        kind = "the wheel from pip's find-links"
    elif platform.system() == "Darwin" or (platform.system() == "Windows" and not gpu):
        kind = "this system's build"
        run(TORCH_HELP.format(tried=kind), *pip(torch))
    else:
        kind = "the build that fits the NVIDIA driver" if gpu else "the CPU build, since `nvidia-smi -L` finds no GPU"
        run(TORCH_HELP.format(tried="uv, which knows where the builds are, could not be installed"), *pip("uv"))
        uv = (PYTHON, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", PYTHON, "--torch-backend", "auto" if gpu else "cpu")
        run(TORCH_HELP.format(tried=kind), *uv, torch)
    print(f"PyTorch: {kind}.", flush=True)


def install_project() -> None:
    """The project itself, editable, with what developing needs. PyTorch stays exactly the one that is there."""
    print("Installing the project and its dependencies (some minutes) ...", flush=True)
    version = subprocess.check_output([PYTHON, "-c", "from importlib.metadata import version; print(version('torch'))"], text=True).strip()
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(f"torch=={version}\n", encoding="utf-8")
        run("The dependencies could not be installed; pip's message is above.", *pip("-c", constraints, "-e", f"{ROOT}[dev]"))


def pip(*arguments: str | Path) -> tuple[str | Path, ...]:
    return (PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments)


def succeeds(*command: str | Path) -> bool:
    """Whether a command works; what it prints is dropped."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run(failure: str, *command: str | Path) -> None:
    """Run a command that must work; else stop with `failure`."""
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        sys.exit(failure)


if __name__ == "__main__":
    main()
