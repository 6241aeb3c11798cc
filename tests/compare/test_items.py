"""What controls do to test items: shuffled, missing and coalitions on a model whose answer is known."""

from __future__ import annotations

import numpy as np

from chiasm.compare.items import Items, clusters_of, coalitions, missing, only, shuffled
from chiasm.compare.measure import measure, projected
from chiasm.types import Opened, Prediction, Sample


def rows(count=40):
    """Left is a number of -1 or 1, right too (every tenth row lacks it); a text says the row's number."""
    draws = np.random.default_rng(0).choice([-1.0, 1.0], size=(count, 2)).tolist()
    made = []
    for i, (left, right) in enumerate(draws):
        values = {"left": left} if i % 10 == 9 else {"left": left, "right": right}
        keys = {name: f"{name}{value}" for name, value in values.items()}
        made.append(Opened(Sample(f"r{i}", {"note": f"note {i % 3}", "label": "up" if left * right > 0 else "down"}), values, keys))
    return made


class Split:
    def __init__(self, opened):
        self.opened = opened

    def __len__(self):
        return len(self.opened)

    def open_rows(self, places):
        return [self.opened[place] for place in places]


class Product:
    """Says up as far as left * right is positive; the missing count as 0. `sums` adds instead, so that nothing interacts."""

    inputs = ["left", "right"]

    def __init__(self, sums=False):
        self.sums = sums

    def block(self, opened):
        return ProductBlock(self, opened)


class ProductBlock:
    def __init__(self, model, opened):
        self.model, self.opened = model, opened

    def __len__(self):
        return len(self.opened)

    def answer(self, asked, sources):
        said = []
        for number, place in enumerate(asked):
            taken = [sources[name][number] if name in sources else place for name in self.model.inputs]
            left, right = (0.0 if s is None else self.opened[s].values.get(n, 0.0) for s, n in zip(taken, self.model.inputs, strict=True))
            up = 0.5 + (0.2 * left + 0.2 * right if self.model.sums else 0.4 * left * right)
            sample = self.opened[place].sample
            belief = {"up": up, "down": 1 - up}
            said.append(Prediction(sample.id, "t", max(belief, key=lambda k: belief[k]), sample.parts["label"], probabilities=belief))
        return said


def test_shuffled_takes_another_value_and_leaves_the_absent_alone():
    opened = rows()
    sources = shuffled(opened, "right")["right"]
    for place, source in enumerate(sources):
        if "right" in opened[place].values:
            assert opened[source].values["right"] != opened[place].values["right"]
        else:
            assert source == place
    notes = shuffled(opened, "note")["note"]
    assert all(opened[s].sample.parts["note"] != row.sample.parts["note"] for s, row in zip(notes, opened, strict=True))
    same = [Opened(row.sample, {"left": 1.0}, {"left": "one"}) for row in opened]
    assert shuffled(same, "left")["left"] == list(range(len(same)))


def test_missing_grows_and_is_the_same_every_time():
    opened, before = rows(200), set()
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        sources = missing(opened, "left", fraction)["left"]
        gone = {place for place, source in enumerate(sources) if source is None}
        assert before <= gone and abs(len(gone) / 200 - fraction) < 0.12
        assert sources == missing(opened, "left", fraction)["left"]
        before = gone
    assert len(before) == 200 and not any(s is None for s in missing(opened, "left", 0.0)["left"])


def test_coalitions_are_all_subsets():
    assert coalitions(["a", "b"]) == [(), ("a",), ("b",), ("a", "b")]
    assert len(coalitions("abcde")) == 32 and coalitions("abcdef") == []
    assert only(rows(2), ["a", "b"], ["b"]) == {"a": [None, None]}


def measured(sums):
    opened = rows()
    split = Split(opened)
    items = Items("test", list(range(40)), [row.sample.id for row in opened], list(range(39, -1, -1)))
    return measure(Product(sums), split, items, seed=3, interactions=True), items, opened


def test_a_product_is_measured_as_what_it_is():
    found, items, opened = measured(sums=False)
    cell = found.cell
    here = [i for i in items.controlled if "right" in opened[i].values]
    assert cell.seed == 3 and all(cell.outputs[i] == found.targets[i] for i in here)
    position = {i: k for k, i in enumerate(items.controlled)}
    assert all(cell.controls["right shuffled"][position[i]] != found.targets[i] for i in here)  # -1 and 1 always change places
    assert cell.controls["left missing 0"] == [cell.outputs[i] for i in items.controlled]
    for key in ("", "left", "right"):  # a product of one is worth nothing
        assert all(belief == {"up": 0.5, "down": 0.5} for belief in cell.coalitions[key])
    assert cell.coalitions["left+right"] == [cell.probabilities[i] for i in items.controlled]
    assert found.beliefs["left missing 1"] == cell.coalitions["right"]
    ups = np.array([belief["up"] for belief in cell.additive])
    assert len(ups) == 40 and np.abs(ups - 0.5).max() < 0.2  # what is left is the imbalance of the draws
    assert cell.latency["p50"] <= cell.latency["p99"]


def test_a_sum_is_its_own_projection():
    found, items, opened = measured(sums=True)
    projections = projected(Product(sums=True), [opened[i] for i in items.controlled])
    assert found.cell.additive == projections
    for belief, i in zip(projections, items.controlled, strict=True):
        assert abs(belief["up"] - found.cell.probabilities[i]["up"]) < 1e-5


def test_items_are_drawn_with_what_they_share():
    """A group column decides; else the input whose pictures or clips are shared most; an item that has none is its own."""
    ids, media = ["r0", "r1", "r2", "r3"], [{"image": "p", "audio": "x"}, {"image": "p", "audio": "y"}, {"image": "q", "audio": "z"}, {}]
    assert clusters_of(ids, media, [None] * 4) == ["media p", "media p", "media q", "r3"]
    assert clusters_of(ids, media, ["v1", "v2", "v1", None]) == ["group v1", "group v2", "group v1", "r3"]
    assert clusters_of(ids, [{}] * 4, [None] * 4) == [] == clusters_of(ids[:2], [{"image": "p"}, {"image": "q"}], [None] * 2)
