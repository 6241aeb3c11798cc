"""Plans: every row exactly once, f(seed, epoch), pictures together, lengths alike."""

import numpy as np
import pytest

from chiasm.data.order import plan_epoch
from chiasm.data.split import Split


@pytest.fixture
def split(fakes):
    draws = np.random.default_rng(0)
    records = [{"image": f"dot:{i // 5}", "question": "x" * int(draws.integers(1, 200))} for i in range(1003)]
    return Split(fakes.Records(records), {"image": fakes.Vector()}, text_inputs={"question": fakes.Words()})


@pytest.mark.parametrize("batch_size", [1, 7, 32, 2000])
@pytest.mark.parametrize("group_rows", [1, 3, 8])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_exactly_once(split, batch_size, group_rows, shuffle):
    plan = plan_epoch(split, seed=0, epoch=0, batch_size=batch_size, group_rows=group_rows, shuffle=shuffle)
    assert sorted(row for batch in plan for row in batch) == list(range(1003))
    assert sorted(map(len, plan))[1:] == [min(batch_size, 1003)] * (len(plan) - 1)


def test_depends_on_seed_and_epoch_only(split):
    plans = {(s, e): plan_epoch(split, seed=s, epoch=e, batch_size=32) for s in (0, 1) for e in (0, 1)}
    assert plan_epoch(split, seed=1, epoch=1, batch_size=32) == plans[1, 1]
    assert len({str(p) for p in plans.values()}) == 4


def test_without_shuffle_the_order_of_the_source(split):
    plan = plan_epoch(split, seed=0, epoch=0, batch_size=10, shuffle=False)
    assert [row for batch in plan for row in batch] == list(range(1003))


def test_pictures_stay_together(split):
    plan = plan_epoch(split, seed=0, epoch=0, batch_size=50)
    pictures = np.mean([len({row // 5 for row in batch}) for batch in plan])
    alone = np.mean([len({row // 5 for row in batch}) for batch in plan_epoch(split, seed=0, epoch=0, batch_size=50, group_rows=1)])
    assert pictures < 13 and alone > 25


def test_lengths_are_alike(fakes):
    draws = np.random.default_rng(0)
    records = [{"question": "x" * int(draws.integers(1, 200))} for _ in range(3000)]
    split = Split(fakes.Records(records), {}, text_inputs={"question": fakes.Words()})
    lengths = split.outline().lengths

    def efficiency(plan):
        return sum(lengths[batch].sum() for batch in plan) / sum(lengths[batch].max() * len(batch) for batch in plan)

    assert efficiency(plan_epoch(split, seed=0, epoch=0, batch_size=32)) > 0.9
    assert efficiency(plan_epoch(split, seed=0, epoch=0, batch_size=32, shuffle=False)) < 0.6


def test_short_texts_are_mixed_whatever_their_length(fakes):
    records = [{"word": word} for word in ("circle", "rectangle") for _ in range(500)]
    split = Split(fakes.Records(records), {}, text_inputs={"word": fakes.Words()})
    shares = [np.mean([row < 500 for row in batch]) for batch in plan_epoch(split, seed=0, epoch=0, batch_size=100)]
    assert min(shares) > 0.3 and max(shares) < 0.7


def test_empty_split(fakes):
    assert plan_epoch(Split(fakes.Records([]), {}), seed=0, epoch=0, batch_size=4) == []
