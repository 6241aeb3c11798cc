"""Trained on caption + picture and caption + voice alone, a model answers from combinations that it has never seen."""

from __future__ import annotations

from pathlib import Path

import pytest

import chiasm
from chiasm.data.scenes.layout import OTHER_VIEWS, SPLITS, TRAINED_VIEWS

CAPTION_NAMES_IT = 0.5  # else it only says "a red thing"


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["early", "cross_attention"])
def test_every_combination_is_above_what_a_question_alone_can_say(fusion: str, tmp_path: Path):
    changes = [f"fusion.type={fusion}", "stages.0.steps=300", "train.evaluate_every=1000"]
    run = chiasm.train("views", overrides=changes, output=tmp_path / "views", progress=False)
    scores = run.metrics["test"]
    blind = scores["name.accuracy[majority]"]
    assert blind < 0.1
    for kind in (*TRAINED_VIEWS, *OTHER_VIEWS):
        assert scores[f"name.accuracy[kind={kind}]"] > blind + 0.3, kind
    assert scores["name.accuracy[kind=caption]"] == pytest.approx(CAPTION_NAMES_IT, abs=0.1)


def test_training_has_never_seen_them():
    assert set(SPLITS["views"].views) == set(TRAINED_VIEWS) and not set(TRAINED_VIEWS) & set(OTHER_VIEWS)
