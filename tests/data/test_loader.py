"""The same batches for any number of processes, from any start; a process that dies or hangs names its sample."""

import os
import time

import pytest
import torch

from chiasm.data.account import Accounting
from chiasm.data.collate import Collator
from chiasm.data.loader import Loader
from chiasm.data.order import plan_epoch
from chiasm.data.split import Split
from chiasm.types import ChiasmError


@pytest.fixture
def split(fakes):
    records = [{"image": f"dot:{i // 2}", "question": "q" * (i % 9), "label": "yes"} for i in range(200)]
    for i in range(0, 200, 9):
        records[i] = [None, {"image": f"bad:{i}", "label": "yes"}, {"image": "dot:1", "label": "wrong"}][i % 3]
    records[5] = {"image": "dot:1"}
    return Split(fakes.Records(records), {"image": fakes.Vector()}, text_inputs={"question": fakes.Words()})


def steps(fakes, split, **options):
    plan = plan_epoch(split, seed=1, epoch=0, batch_size=16)
    collator = Collator([fakes.Answer()], fakes.processor(), modality_dropout=0.3)
    return list(Loader(split, plan, collator, seed=1, epoch=0, augment=True, **options))


def same(a, b):
    return (
        a.rows == b.rows
        and a.outcomes == b.outcomes
        and a.bad == b.bad
        and all(torch.equal(a.pool[n][t], b.pool[n][t]) for n in a.pool for t in a.pool[n])
        and all(
            x.ids == y.ids and torch.equal(x.inputs["image_index"], y.inputs["image_index"])
            for x, y in zip(a.batches, b.batches, strict=True)
        )
    )


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 2), (2, 1), (2, 4)])
def test_equal_for_any_number_of_workers(fakes, split, workers, prefetch):
    alone, several = steps(fakes, split), steps(fakes, split, num_workers=workers, prefetch=prefetch)
    assert len(alone) == 13 and all(same(a, b) for a, b in zip(alone, several, strict=True))


def test_start_goes_on_in_the_middle(fakes, split):
    assert all(same(a, b) for a, b in zip(steps(fakes, split)[4:], steps(fakes, split, start=4), strict=True))


def test_no_global_draws(fakes, split):
    state = torch.get_rng_state()
    steps(fakes, split, num_workers=1)
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_collator_rows_as_opened(split):
    rows = next(iter(Loader(split, [[1, 2], [3]])))
    assert [row.sample.id for row in rows] == ["r:1", "r:2"]


@pytest.mark.parametrize("workers", [0, 2])
def test_account_of_23_damaged_of_200(fakes, split, workers, tmp_path):
    account = Accounting()
    for epoch in range(2):
        for step in steps(fakes, split, num_workers=workers):
            account.add("train", 200, step, epoch=epoch)
    assert account.counts() == {"train": {"read": 200, "used": 176, "quarantined": 23, "filtered": 1}}
    account.write(tmp_path)
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert len(lines) == 23 and '"epoch": 0' in lines[0]


def test_account_after_resume(fakes, split):
    whole, first = Accounting(), Accounting()
    made = steps(fakes, split)
    for step in made:
        whole.add("train", 200, step)
    for step in made[:7]:
        first.add("train", 200, step)
    second = Accounting()
    second.load_state(first.state())
    for step in steps(fakes, split, start=5):  # two steps are seen again
        second.add("train", 200, step)
    assert second.counts() == whole.counts() and second.quarantined() == whole.quarantined()


def test_a_users_error_in_a_worker_stays_one_line(fakes, split, monkeypatch):
    monkeypatch.setattr(split, "open_rows", lambda *args, **kwargs: (_ for _ in ()).throw(ChiasmError("the table is gone")))
    with pytest.raises(ChiasmError, match=r"^the table is gone$"):
        list(Loader(split, [[0]], num_workers=1))


def fail_at(fakes, action):
    class Failing(fakes.Vector):
        def open(self, value, *, root=None):
            if value == "dot:7":
                action()
            return super().open(value, root=root)

    return Split(fakes.Records([{"image": f"dot:{i}"} for i in range(12)]), {"image": Failing()})


def test_a_worker_that_dies_names_the_sample(fakes):
    split = fail_at(fakes, lambda: os._exit(9))
    with pytest.raises(ChiasmError, match=r"died.* while reading r:7 \(r\)"):
        list(Loader(split, [[i] for i in range(12)], num_workers=1))


def test_a_worker_that_hangs_names_the_sample(fakes):
    split = fail_at(fakes, lambda: time.sleep(60))
    with pytest.raises(ChiasmError, match=r"no batch came for 1 seconds while reading r:7"):
        list(Loader(split, [[i] for i in range(12)], num_workers=1, timeout=1))
