"""Evaluation with its controls, on a fake model whose answers are known: it reads the picture and ignores the sound."""

import dataclasses

import numpy as np
import pytest
import torch

from chiasm.evaluation import evaluate as module
from chiasm.evaluation.baselines import question_only
from chiasm.types import BadSample, Batch, Opened, Prediction, Sample, StepBatches, Tokens

COLOURS = ["red", "green", "blue", "white"]


class FakeSplit:
    """Rows of pictures (a colour number), 4 questions a picture; every fifth row has a sound; row 7 is damaged, row 9 has no answer."""

    def __init__(self, rows=200):
        self.rows = rows

    def __len__(self):
        return self.rows

    def open(self, index, *, seed, epoch, augment):
        assert not augment
        if index == 7:
            return BadSample("row7", "f", 7, "image", "truncated", "cut off")
        picture = index // 4
        colour = int(np.random.default_rng(picture).integers(4))
        parts = {"question": "what colour?", "answer": COLOURS[colour] if index != 9 else None, "kind": "a" if index % 2 else "b"}
        values, keys = {"image": float(colour)}, {"image": f"p{picture}"}
        if index % 5 == 0:
            values["audio"], keys["audio"] = 1.0, f"s{index}"
        return Opened(Sample(f"row{index}", parts), values, keys)


def fake_loader(split, plan, collator, *, num_workers, seed, epoch, augment):
    assert collator is None
    for indices in plan:
        yield [split.open(i, seed=seed, epoch=epoch, augment=augment) for i in indices]


class FakeCollator:
    def __init__(self, tasks, processor):
        self.tasks = tasks

    def __call__(self, opened, control=None):
        good = [o for o in opened if isinstance(o, Opened)]
        kept = [o for o in good if o.sample.parts["answer"] is not None]
        picture = torch.tensor([[o.values["image"]] for o in kept])
        present = torch.ones(len(kept))
        if control == ("image", "shuffled"):
            picture = picture.roll(len(kept) // 2, 0)
        if control == ("image", "missing"):
            present = present * 0
        pool = {"image": {"pixel_values": picture, "present": present}, "audio": {"features": torch.ones(len(kept), 1)}}
        ids = [o.sample.id for o in kept]
        batches = [Batch(t.name, ids, {}, {"answer": [o.sample.parts["answer"] for o in kept]}) for t in self.tasks]
        bad = [o for o in opened if isinstance(o, BadSample)]
        return StepBatches(pool, batches, bad=bad, read=len(opened), filtered=len(good) - len(kept), notes={"image: cut": 1})


class FakeModel(torch.nn.Module):
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.encoded = []

    def encode(self, pool):
        self.encoded.append({name: len(next(iter(tensors.values()))) for name, tensors in pool.items()})
        assert not torch.is_grad_enabled()
        assert not self.training
        return {name: Tokens(next(iter(t.values()))[:, None], t.get("present", torch.ones(1)).bool()[:, None]) for name, t in pool.items()}


class AnswerTask:
    name, view, metrics, inputs = "answer", "fused", ["exact_match", "calibration_error"], ["image", "audio", "question"]
    broken = 0

    def predict(self, model, batch, streams):
        image = streams["image"]
        for row, id in enumerate(batch.ids):
            colour = COLOURS[int(image.values[row, 0, 0])] if image.mask[row, 0] else "red"
            yield Prediction(id, "answer", colour, batch.targets["answer"][row], score=float("nan") if row < self.broken else 0.9)


class AlignTask:
    name, view, metrics, inputs = "align", "towers", ["recall"], ["image"]

    def predict(self, model, batch, streams):
        for row, id in enumerate(batch.ids):
            image = torch.nn.functional.one_hot(streams["image"].values[row, 0, 0].long(), 4).tolist()
            yield Prediction(id, "align", {"image": image, "answer": [float(c == batch.targets["answer"][row]) for c in COLOURS]})


class PairTask(AnswerTask):
    """Two answers of every row: is the picture of its colour, and is it of the next one."""

    name, metrics, inputs = "pair", ["accuracy"], ["image"]

    def predict(self, model, batch, streams):
        for p in super().predict(model, batch, streams):
            yield Prediction(p.id, "pair", "yes" if p.output == p.target else "no", "yes", sample=p.id)
            following = COLOURS[(COLOURS.index(p.target) + 1) % 4]
            yield Prediction(f"{p.id} (next)", "pair", "yes" if p.output == following else "no", "no", sample=p.id)


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(module, "Loader", fake_loader)
    monkeypatch.setattr(module, "Collator", FakeCollator)


def run(tasks=None, model=None, rows=200, **options):
    return module.evaluate(model or FakeModel(), None, FakeSplit(rows), list(tasks or [AnswerTask()]), **{"batch_size": 64} | options)


def test_scores_controls_and_accounting():
    found = run()
    assert found.counts == {"read": 200, "used": 198, "quarantined": 1, "filtered": 1}
    assert found.metrics["answer.exact_match"] == 1.0
    assert found.metrics["answer.exact_match[kind=a]"] == 1.0
    assert found.metrics["answer.exact_match[image shuffled]"] < 0.5
    assert found.metrics["answer.exact_match[audio shuffled]"] == found.metrics["answer.exact_match[question missing]"] == 1.0
    assert found.metrics["answer.calibration_error"] == pytest.approx(0.1)
    assert found.differences["answer.exact_match[audio shuffled]"]["rows"] == 40
    verdicts = [verdict.split(": ")[1] for verdict in found.verdicts]
    assert verdicts == ["uses `image`", "no measurable use of `audio`", "no measurable use of `question`"]
    assert found.notes[0] == "image: cut: 4 times"
    assert [p.id for p in found.predictions[:3]] == ["row0", "row1", "row2"]  # the split's order, not the batches'


def test_several_answers_of_one_row_are_each_compared_with_their_own_control():
    found = run([PairTask()])
    assert len(found.predictions) == 2 * 198 and found.counts["used"] == 198
    assert [(p.id, p.row) for p in found.predictions[:3]] == [("row0", "row0"), ("row0 (next)", "row0"), ("row1", "row1")]
    assert found.metrics["pair.accuracy"] == found.metrics["pair.accuracy[kind=b]"] == 1.0
    assert 0.4 < found.metrics["pair.accuracy[image shuffled]"] < 0.8 and found.metrics["pair.accuracy[image missing]"] < 0.8
    assert found.differences["pair.accuracy[image shuffled]"]["rows"] == 2 * 198
    assert found.verdicts[0].startswith("pair: uses `image`")


def test_what_a_control_leaves_alone_is_not_encoded_again():
    model = FakeModel()
    run(model=model, rows=60)
    real, *image = model.encoded[:3]
    assert real == {"image": 58, "audio": 58}
    assert image == [{"image": 58}, {"image": 58}]  # shuffled, missing
    assert model.encoded[3:] == [{"image": 12, "audio": 12}] * 2  # only the 12 rows that have a sound are answered again


def test_mode_is_restored_also_after_an_error():
    model = FakeModel()
    run(model=model, rows=40)
    assert model.training

    class Failing(AnswerTask):
        def predict(self, model, batch, streams):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        run([Failing()], model=model)
    assert model.training


def test_contrast_knows_what_its_sides_are_and_has_no_missing_control():
    found = run([AlignTask()])
    assert found.predictions[0].target == {"image": "p0", "answer": found.predictions[0].target["answer"]}
    assert [p.id for p in found.predictions[:3]] == ["row0", "row4", "row8"]  # the other rows of a picture are the same pair
    assert "align.recall@1[image->answer]" in found.metrics
    assert "align.recall@1[image->answer, image shuffled]" in found.metrics
    assert not [k for k in found.metrics if "missing" in k]
    assert any("candidates" in note for note in found.notes)


def test_non_finite_answers_are_counted_and_wrong():
    task = AnswerTask()
    task.broken = 3
    found = run([task], controls=False, batch_size=500)
    assert found.metrics["answer.exact_match"] == pytest.approx(195 / 198)
    assert "answer: 3 predictions had NaN or Inf" in found.notes[-1]


def test_limit_controls_and_progress():
    seen = []
    found = run(limit=50, batch_size=10, controls=20, progress=lambda done, total: seen.append((done, total)))
    assert found.counts["read"] == 50
    assert seen[-1] == (50, 50)
    assert 0 < found.differences["answer.exact_match[image shuffled]"]["rows"] <= 20
    assert run(controls=False).differences == {}


def test_baselines_answer_the_same_rows():
    baseline = question_only([({"question": "what colour?"}, "red")])
    found = run(baselines={"answer": [baseline]})
    red = np.mean([p.target == "red" for p in found.predictions])
    assert found.metrics["answer.exact_match[question only]"] == pytest.approx(red)
    assert any("question-only level" in v for v in found.verdicts)


def test_rows_of_a_sorted_file_are_spread_over_batches():
    plan = module._plan(1000, 64, None, 0)
    assert sorted(i for batch in plan for i in batch) == list(range(1000))
    assert all(max(batch) - min(batch) > 200 for batch in plan[:-1])
    assert plan == module._plan(1000, 64, None, 0)


def test_the_same_twice():
    first, second = run(), run()
    assert dataclasses.asdict(first) == dataclasses.asdict(second)
