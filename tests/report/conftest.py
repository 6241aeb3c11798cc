"""A run folder with invented figures, and pictures drawn from nothing: what the report's tests render."""

import io
import json
import math
import struct
import wave
import zlib

import numpy as np
import pytest

KINDS = {"what": 0.99, "colour": 0.98, "where": 0.97, "how many": 0.95, "sum": 0.66, "is there": 0.98, "spoken": 0.74}

RECIPE = """\
name: demo
inputs: {image: image, audio: audio, question: text}
encoders:
  image: {arch: resnet, connector: mlp}
fusion: {type: cross_attention, start: matching}
tasks:
  align: {type: contrast, between: [image, caption]}
  answer: {type: generate, prompt: "Question: {question} Answer:", target: "{answer}"}
stages:
  - {name: align, epochs: 2, tasks: [align], learning_rate: 1e-3, batch_size: 64}
  - {name: finetune, steps: 4000, tasks: [align, answer], train: [backbone, fusion, tasks.answer], learning_rate: 3e-4, batch_size: 32}
"""


def png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] -> PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def picture(seed: int) -> bytes:
    """Coloured discs on a background."""
    random = np.random.default_rng(seed)
    pixels = np.full((64, 64, 3), random.integers(170, 250, 3), dtype=np.uint8)
    y, x = np.mgrid[:64, :64]
    for _ in range(int(random.integers(1, 5))):
        cx, cy, r = random.integers(10, 54), random.integers(10, 54), random.integers(5, 11)
        pixels[(x - cx) ** 2 + (y - cy) ** 2 < r**2] = random.integers(0, 200, 3)
    return png(pixels)


def sound() -> bytes:
    """A short tone as WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((np.sin(np.arange(2000) / 4) * 9000).astype("<i2").tobytes())
    return buffer.getvalue()


def figures(exact: float) -> tuple[dict, dict]:
    """(metrics, details) of one split."""
    metrics = {"answer.exact_match": exact, "answer.token_f1": exact + 0.01}
    intervals = {"answer.exact_match": [exact - 0.009, exact + 0.008]}
    differences = {}
    for control, value in {"image shuffled": 0.19, "image missing": 0.22, "audio shuffled": 0.87, "audio missing": 0.86}.items():
        key = f"answer.exact_match[{control}]"
        metrics[key] = value
        gap = value - exact
        differences[key] = {
            "real": exact,
            "control": value,
            "difference": gap,
            "interval": [gap - 0.02, gap + 0.02],
            "rows": 900,
            "clusters": 300,
        }
    metrics["answer.exact_match[question only]"] = 0.21
    metrics["answer.exact_match[majority]"] = 0.08
    for kind, value in KINDS.items():
        metrics[f"answer.exact_match[kind={kind}]"] = value
        intervals[f"answer.exact_match[kind={kind}]"] = [value - 0.02, min(value + 0.02, 1)]
        metrics[f"answer.exact_match[kind={kind}, image shuffled]"] = value * 0.25
        metrics[f"answer.exact_match[kind={kind}, audio shuffled]"] = 0.11 if kind == "spoken" else value
    for k, value in {1: 0.985, 5: 0.999, 10: 1.0}.items():
        for direction in ("image->caption", "caption->image"):
            metrics[f"align.recall@{k}[{direction}]"] = value
            metrics[f"align.recall@{k}[{direction}, image shuffled]"] = k / 100
    verdicts = [
        "answer: uses `image`: exact_match falls from 0.95 to 0.19 when shuffled [-0.78, -0.74]",
        "answer: with `image` shuffled, 0.19 is at the question-only level 0.21 (the best training answer for each question): "
        "what is above it comes from `image`",
        "answer: uses `audio`: exact_match falls from 0.74 to 0.11 when shuffled [-0.66, -0.60]",
        "answer: no measurable use of `table`: exact_match goes from 0.95 to 0.95 when shuffled [-0.004, +0.003]",
        "align: uses `image`: recall@1[image->caption] falls from 0.98 to 0.01 when shuffled [-0.98, -0.96]",
    ]
    counts = {"read": 3600, "used": 3588, "quarantined": 4, "filtered": 8}
    notes = ["align: Recall@k is among 100 candidates (9 x 100 different pairs)", "image: composited on white: 12 times"]
    return metrics, {"intervals": intervals, "differences": differences, "verdicts": verdicts, "counts": counts, "notes": notes}


def log_lines(steps: int = 4000) -> list[dict]:
    random = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1, 4):
        stage = "align" if step < 1200 else "finetune"
        align = 0.08 + 3.4 * math.exp(-step / 500) * (1 + 0.12 * random.normal())
        losses = {"align": align}
        if stage == "finetune":
            losses["answer"] = 0.05 + 2.4 * math.exp(-(step - 1200) / 700) * (1 + 0.15 * random.normal())
        rate = 3e-4 * min(step / 200, 1) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        lines.append(
            {"step": step, "stage": stage, "loss": sum(losses.values()), "losses": losses, "learning_rate": rate, "seconds": step * 0.06}
        )
        if step % 400 == 1 and step > 1200:
            done = 1 - math.exp(-(step - 1200) / 700)
            metrics = {"answer.exact_match": 0.2 + 0.74 * done, "answer.exact_match[image shuffled]": 0.17 + 0.02 * done}
            metrics["answer.exact_match[kind=sum]"] = 0.5
            metrics["align.recall@1[image->caption]"] = 0.5 + 0.48 * done
            lines.append({"event": "evaluation", "step": step, "split": "validation", "metrics": metrics})
    return lines


def write_run(folder) -> None:
    """Fill `folder` as training and evaluation would."""
    tests = {"test": figures(0.947), "test_new_pairs": figures(0.912)}
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "metrics.json").write_text(json.dumps({k: v[0] for k, v in tests.items()}))
    (folder / "evaluation.json").write_text(json.dumps({k: v[1] for k, v in tests.items()}))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_lines()))
    reasons = [("image", "truncated"), ("image", "truncated"), ("audio", "too_long")]
    bad = [
        {
            "split": "train",
            "id": f"train.jsonl:{i}",
            "file": "train.jsonl",
            "line": i,
            "input": n,
            "reason": r,
            "message": f"{n} <{i}> is {r}",
        }
        for i, (n, r) in enumerate(reasons, 7)
    ]
    (folder / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in bad))
    data = {"train": {"read": 40000, "used": 39985, "quarantined": 3, "filtered": 12, "notes": {"image: composited on white": 31}}}
    data |= {"validation": {"read": 1800, "used": 1800, "quarantined": 0, "filtered": 0}}
    (folder / "data.json").write_text(json.dumps(data))


def extras() -> dict:
    """What the caller of `write_report` adds: facts, sample pictures, retrieval rows."""
    rows = [
        ("what is at the top left?", "sun", "sun", True),
        ("what colour is the cup?", "green", "green", True),
        ("what is the sum of the digits modulo ten?", "7", "1", False),
    ]
    samples = [
        {"image_png_bytes": picture(i), "rows": rows[: 1 + (i + 2) % 3], "caption": "a red sun and a green cup", "predicted_caption": text}
        for i, text in enumerate(["a red sun and a green cup", "a red sun and a blue cup"] * 3)
    ]
    samples[1] |= {"sound_wav_bytes": sound(), "title": "a spoken question"}
    retrieval = [
        {"caption": "a red sun left of a green cup", "pictures": [(picture(20 + i), i == 0) for i in range(5)]},
        {"caption": "two blue stars above a white king", "pictures": [(picture(30 + i), i == 2) for i in range(5)]},
        {
            "image_png_bytes": picture(40),
            "captions": [(f"{c} moon below a flag", c == "yellow") for c in ("yellow", "white", "blue", "a", "red")],
        },
    ]
    return {"facts": {"Parameters": "1.04 M, all trained", "Device": "cpu, 2 threads"}, "samples": samples, "retrieval": retrieval}


@pytest.fixture
def run_folder(tmp_path):
    """A filled run folder."""
    folder = tmp_path / "demo"
    folder.mkdir()
    write_run(folder)
    return folder


@pytest.fixture
def shown():
    """Facts, samples and retrieval rows for `write_report`."""
    return extras()


@pytest.fixture
def split():
    """(metrics, details) of one split."""
    return figures(0.947)
