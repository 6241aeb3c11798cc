"""Stored features of frozen encoders train like the media they come from, and the media are not opened again."""

import itertools
import json

import numpy as np
import PIL.Image
import pytest

from chiasm.recipe import load_recipe
from chiasm.training import feature_cache
from chiasm.training.feature_cache import FeatureStore, cacheable_inputs, with_features
from chiasm.training.log import read_log
from chiasm.training.loop import train
from chiasm.training.materials import assemble
from chiasm.training.precision import Precision
from chiasm.training.stages import apply_stage

FP32 = Precision("fp32", "cpu", "")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """24 pictures, two rows each; one cannot be read, one is not there."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    draw, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    rows = []
    for number in range(24):
        colour = number % 2
        pixels = draw.integers(0, 60, (8, 8, 3), dtype=np.uint8) + np.uint8(150 * colour)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        rows += [{"image": f"{number}.png", "label": ["dark", "light"][colour]}] * 2
    (folder / "5.png").write_bytes(b"not a picture")
    (folder / "7.png").unlink()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "train.jsonl"


def recipe(data, *, train="none", epochs=3, connector="linear", asks=False, **image):
    encoder = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic", "grid": 2}
    encoder |= {"train": train, "connector": connector}
    return load_recipe(
        {
            "inputs": {"image": {"modality": "image", "size": 8, **image}},
            "encoders": {"image": encoder},
            "backbone": {
                **({"kind": "bidirectional", "tokenizer": "words"} if asks else {"kind": "latent"}),
                "arch": "bert",
                "hidden_size": 16,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "intermediate_size": 16,
            },
            "tasks": {"shade": {"type": "classify", "target": "label", **({"prompt": "dark or light ?"} if asks else {})}},
            "data": {"train": str(data), "validation": str(data)},
            "stages": [{"epochs": epochs, "batch_size": 8, "learning_rate": 0.003}],
            "train": {"precision": "fp32", "device": "cpu", "evaluate_every": 1000},
        }
    )


def ready(data, **keys):
    made = recipe(data, **keys)
    materials = assemble(made)
    apply_stage(materials.model, made, made.stages[0])
    return materials


def losses(folder):
    return [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line]


def test_training_on_features_equals_training_on_media(data, tmp_path, monkeypatch):
    train(recipe(data), output=tmp_path / "cached", progress=False)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "_is_frozen", lambda encoder: False)
        train(recipe(data), output=tmp_path / "plain", progress=False)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "plain"), rel=2e-3)
    for name in ("data.json", "quarantine.jsonl"):
        assert (tmp_path / "cached" / name).read_text() == (tmp_path / "plain" / name).read_text()
    assert json.loads((tmp_path / "cached/data.json").read_text())["train"]["quarantined"] == 4


READS = {"type": "q_former", "tokens": 2, "heads": 2, "depth": 2, "reads": "text"}


@pytest.mark.parametrize(("connector", "asks"), [("pixel_shuffle", False), (READS, True)])
def test_what_reads_the_grid_finds_it_in_the_store(data, tmp_path, monkeypatch, connector, asks):
    """Also where the connector reads the prompt: what is stored is what the encoder says, which no prompt changes."""
    made = recipe(data, epochs=2, connector=connector, asks=asks)
    train(made, output=tmp_path / "cached", progress=False)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(feature_cache, "_is_frozen", lambda encoder: False)
    train(made, output=tmp_path / "plain", progress=False)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "plain"), rel=2e-3)


def test_a_second_run_encodes_nothing(data, tmp_path, monkeypatch):
    train(recipe(data), output=tmp_path / "first", progress=False)
    monkeypatch.setattr(feature_cache, "_fill", lambda *args: pytest.fail("encoded again"))
    train(recipe(data), output=tmp_path / "second", progress=False)
    assert losses(tmp_path / "first") == losses(tmp_path / "second")


def test_what_is_stored_is_what_the_encoder_says(data):
    materials = ready(data)
    split = materials.split("train")
    processor, cached, store = with_features(materials.model, materials.processor, split, "image", precision=FP32)
    media, kept = split.open(0), cached.open(0)
    assert kept.keys == media.keys
    tokens = materials.model.encode_features("image", materials.processor.modalities["image"].collate([media.values["image"]]))
    values, mask = kept.values["image"]
    assert np.allclose(values, tokens.values[0].numpy(), rtol=1e-3, atol=1e-3) and mask.all() and values.dtype == np.float16
    tensors = processor.modalities["image"].collate([kept.values["image"]] * 3)
    assert tensors["features"].shape == (3, 4, 8) and tensors["features_mask"].all()
    assert materials.model.encode_features("image", tensors).grid == tokens.grid == (2, 2)
    assert len(store.places) == 22 and len(store.bad) == 1
    assert cached.open(10).reason == split.open(10).reason and cached.open(14).reason == split.open(14).reason == "not_found"


def test_other_weights_or_preprocessing_is_another_store(data, tmp_path):
    for keys in ({}, {"size": 8, "resize": "crop"}):
        materials = ready(data, **keys)
        with_features(materials.model, materials.processor, materials.split("train"), "image", precision=FP32)
    next(materials.model.parts()["encoders.image"].parameters()).data.add_(1.0)
    with_features(materials.model, materials.processor, materials.split("train"), "image", precision=FP32)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_only_frozen_encoders_without_augmentation_are_stored(data, tmp_path):
    for keys, names in (({}, ["image"]), ({"train": "all"}, []), ({"augment": {"flip": True}}, [])):
        materials = ready(data, **keys)
        assert cacheable_inputs(materials.model, materials.processor, ["image"]) == names
    train(recipe(data, epochs=1), output=tmp_path / "run", progress=False)
    assert not (tmp_path / "cache").exists()  # one pass gains nothing


def test_lengths_may_differ(tmp_path):
    values = np.arange(10, dtype=np.float16).reshape(5, 2)
    values.tofile(tmp_path / "values.bin")
    np.ones(5, bool).tofile(tmp_path / "mask.bin")
    index = {"width": 2, "grid": None, "places": {"a": [0, 2], "b": [2, 3]}, "bad": {}, "notes": {}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    store = FeatureStore(tmp_path)
    made = feature_cache.CachedModality(feature_cache.Modality(), store).collate([store.read("a"), store.read("b")])
    assert made["features"].tolist() == [[[0, 1], [2, 3], [0, 0]], [[4, 5], [6, 7], [8, 9]]]
    assert made["features_mask"].tolist() == [[True, True, False], [True, True, True]]


def test_a_full_disk_is_a_note_not_an_end(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feature_cache, "SPACE_SHARE", 0.0)
    train(recipe(data), output=tmp_path / "run")
    assert "features of image are computed anew in every epoch: it would take" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []


def test_pictures_of_different_grids_are_not_stored(data, tmp_path, monkeypatch, capsys):
    encoded, grids = feature_cache._encoded, itertools.cycle([(2, 2), (1, 4)])
    monkeypatch.setattr(feature_cache, "_encoded", lambda *given: ((*found[:3], next(grids)) for found in encoded(*given)))
    train(recipe(data), output=tmp_path / "run")
    assert "features of image are computed anew in every epoch: its pictures have different grids of patches" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []
