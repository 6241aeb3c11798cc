"""Every test runs offline, on few threads, and from the same seeds."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))  # what several folders of tests share


@pytest.fixture(autouse=True)
def seeds() -> None:
    """A test that forgets its own seed is still the same every time."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
