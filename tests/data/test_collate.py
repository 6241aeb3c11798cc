"""Batches: shared units, absent items, controls, dropout, and what becomes of every row."""

import pytest

from chiasm.data.collate import Collator
from chiasm.data.split import Split
from chiasm.types import RecipeError


def rows_of(fakes, records, **options):
    modalities = {"image": fakes.Vector(), **options}
    split = Split(fakes.Records(records), modalities, text_inputs={"question": fakes.Words()})
    return split.open_rows(range(len(records)))


def row(image, question="q", **parts):
    return {"image": image, "question": question, "label": "yes", **parts}


def test_units_are_shared_and_absent_items_are_minus_one(fakes):
    rows = rows_of(fakes, [row("dot:1"), row(["dot:2", "dot:1"]), row("dot:2"), row(None)])
    step = Collator([fakes.Answer()], fakes.processor())(rows)
    assert step.pool["image"]["vector"].flatten().tolist() == [1.0, 2.0]
    (batch,) = step.batches
    assert batch.inputs["image_index"].tolist() == [[0, -1], [1, 0], [1, -1], [-1, -1]]
    assert batch.ids == ["r:0", "r:1", "r:2", "r:3"] and step.read == 4


def test_no_unit_at_all(fakes):
    step = Collator([fakes.Answer()], fakes.processor())(rows_of(fakes, [row(None)]))
    assert step.pool == {} and step.batches[0].inputs["image_index"].tolist() == [[-1]]


def test_every_row_has_one_outcome(fakes):
    records = [row("dot:1"), {**row("dot:1"), "label": "wrong"}, {"image": "dot:1"}, row("bad:1"), None, row(None, None), row("dot:2")]
    step = Collator([fakes.Answer()], fakes.processor())(rows_of(fakes, records))
    assert step.outcomes == ["used", "quarantined", "filtered", "quarantined", "quarantined", "quarantined", "used"]
    assert [b.reason for b in step.bad] == ["unknown_label", "truncated", "bad_json", "all_missing"]
    assert step.filtered == 1 and step.read == 7


def test_a_task_without_inputs_uses_a_row_without_inputs(fakes):
    step = Collator([fakes.Answer(), fakes.Answer(inputs=(), name="text")], fakes.processor())(rows_of(fakes, [row(None, None)]))
    assert step.outcomes == ["used"]


def test_unlabelled_rows_are_kept_to_predict(fakes):
    step = Collator([fakes.Answer()], fakes.processor(), unlabelled=True)(rows_of(fakes, [{"image": "dot:1"}]))
    assert step.outcomes == ["used"] and len(step.batches[0]) == 1


def test_shuffled_gives_every_row_another_unit(fakes):
    records = [row(f"dot:{i // 3}") for i in range(12)] + [row(None)]
    rows, collator = rows_of(fakes, records), Collator([fakes.Answer()], fakes.processor())
    plain = collator(rows).batches[0]
    moved = collator(rows, ("image", "shuffled")).batches[0]
    before, after = plain.inputs["image_index"].flatten().tolist(), moved.inputs["image_index"].flatten().tolist()
    assert all(a != b for a, b in zip(before[:12], after[:12], strict=True)) and after[12] == -1
    assert sorted(after[:12]) == sorted(before[:12])
    assert [s.parts["image"] for s in moved.samples][:12] == [f"dot:{i}" for i in after[:12]]
    assert collator(rows, ("image", "shuffled")).batches[0].inputs["image_index"].flatten().tolist() == after


def test_shuffled_alone_is_told(fakes):
    step = Collator([fakes.Answer()], fakes.processor())(rows_of(fakes, [row("dot:1"), row("dot:1")]), ("image", "shuffled"))
    assert step.notes == {"image: not shuffled, the only one of its batch": 2}
    assert step.batches[0].inputs["image_index"].tolist() == [[0], [0]]


def test_shuffled_text_is_another_text(fakes):
    rows = rows_of(fakes, [row("dot:1", text) for text in ("aa", "b", "aa", "cccc")])
    batch = Collator([fakes.Answer()], fakes.processor())(rows, ("question", "shuffled")).batches[0]
    assert all(a != b for a, b in zip(batch.targets["texts"], ("aa", "b", "aa", "cccc"), strict=True))


def test_missing(fakes):
    rows, collator = rows_of(fakes, [row("dot:1"), row("dot:2")]), Collator([fakes.Answer()], fakes.processor())
    image = collator(rows, ("image", "missing")).batches[0]
    assert image.inputs["image_index"].tolist() == [[-1], [-1]] and image.samples[0].parts["image"] is None
    assert collator(rows, ("question", "missing")).batches[0].targets["texts"] == ["", ""]


@pytest.mark.parametrize(
    ("control", "says"), [(("imgae", "missing"), "did you mean 'image'"), (("image", "shufled"), "did you mean 'shuffled'")]
)
def test_wrong_control(fakes, control, says):
    with pytest.raises(RecipeError, match=says):
        Collator([fakes.Answer()], fakes.processor())([], control)


def test_a_control_leaves_tasks_alone_that_do_not_read_the_input(fakes):
    tasks = [fakes.Answer(), fakes.Answer(inputs=("image",), name="look")]
    rows = rows_of(fakes, [row("dot:1", "aa"), row("dot:2", "b")])
    read, look = Collator(tasks, fakes.processor())(rows, ("question", "missing")).batches
    assert read.targets["texts"] == ["", ""] and look.targets["texts"] == ["aa", "b"]


def test_dropout_hides_never_all_and_only_in_fused_tasks(fakes):
    records = [row(f"dot:{i}") for i in range(200)] + [row("dot:1", None)]
    tasks = [fakes.Answer(), fakes.Answer(name="align", view="towers")]
    collator = Collator(tasks, fakes.processor(), modality_dropout={"image": 0.5, "question": 0.5})
    fused, towers = collator(rows := rows_of(fakes, records), seed=3, dropout=True).batches
    no_image = (fused.inputs["image_index"][:, 0] < 0).tolist()
    no_text = [text == "" for text in fused.targets["texts"]]
    assert 60 < sum(no_image) < 140 and 60 < sum(no_text[:200]) < 140
    assert not any(a and b for a, b in zip(no_image, no_text, strict=True))
    assert (towers.inputs["image_index"] >= 0).all()
    again = collator(rows, seed=3, dropout=True).batches[0]
    assert again.inputs["image_index"].tolist() == fused.inputs["image_index"].tolist()
    assert (collator(rows).batches[0].inputs["image_index"] >= 0).all()


def test_encoded_media_do_not_travel(fakes):
    sample = Collator([fakes.Answer()], fakes.processor())(rows_of(fakes, [row("dot:1", raw=b"123", path="a.png")])).batches[0].samples[0]
    assert "raw" not in sample.parts and sample.parts["path"] == "a.png"


def test_dropout_spares_the_last_input_of_each_task(fakes):
    """`look` reads the picture only, `read` both; no row is left with nothing by either, whatever it has."""
    records = [row(f"dot:{i}", ["q", None, ""][i % 3]) for i in range(60)] + [row(None, "q") for _ in range(30)]
    tasks = [fakes.Answer(name="read"), fakes.Answer(inputs=("image",), name="look")]
    rows = rows_of(fakes, records)
    step = Collator(tasks, fakes.processor(), modality_dropout={"image": 0.9, "question": 0.9})(rows, seed=1, dropout=True)
    read, look = step.batches
    assert all(i >= 0 or text for i, text in zip(read.inputs["image_index"][:, 0].tolist(), read.targets["texts"], strict=True))
    assert (look.inputs["image_index"][:60] >= 0).all()  # the only one it reads
    hidden = sum(i < 0 for i in read.inputs["image_index"][:60, 0].tolist()), sum(not text for text in read.targets["texts"][:60:3])
    assert hidden[0] > 0 and hidden[1] > 0
    assert step.notes == {"image: hidden by modality dropout": hidden[0], "question: hidden by modality dropout": hidden[1]}


def test_a_rate_of_one_is_obeyed_even_for_the_last_input(fakes):
    rows = rows_of(fakes, [row("dot:1", "q"), row("dot:2", None)])
    collator = Collator([fakes.Answer()], fakes.processor(), modality_dropout={"image": 1.0, "question": 0.9999999})
    for epoch in range(5):
        batch = collator(rows, seed=0, epoch=epoch, dropout=True).batches[0]
        assert batch.inputs["image_index"].tolist() == [[-1], [-1]] and batch.targets["texts"] == ["q", ""]


def test_dropout_is_a_function_of_seed_epoch_and_sample(fakes):
    """The same row loses the same inputs in any batch; another seed or epoch draws anew."""
    rows = rows_of(fakes, [row(f"dot:{i}") for i in range(64)])
    collator = Collator([fakes.Answer()], fakes.processor(), modality_dropout={"image": 0.5, "question": 0.5})

    def hidden(rows, **keys):
        batch = collator(rows, dropout=True, **keys).batches[0]
        index = batch.inputs["image_index"][:, 0].tolist()
        return {i: (unit < 0, text == "") for i, unit, text in zip(batch.ids, index, batch.targets["texts"], strict=True)}

    whole = hidden(rows, seed=3, epoch=1)
    assert {**hidden(rows[40:], seed=3, epoch=1), **hidden(rows[:40][::-1], seed=3, epoch=1)} == whole
    assert hidden(rows, seed=3, epoch=2) != whole != hidden(rows, seed=4, epoch=1)
    assert {(True, False), (False, True), (False, False)} == set(whole.values())


def test_inputs_are_exchanged_between_gathered_rows(fakes):
    records = [row("dot:1", "one"), row(["dot:2", "dot:3"], "second"), row(None, "third !")]
    collator = Collator([fakes.Answer()], fakes.processor())
    gathered = collator.gathered(rows_of(fakes, records))
    assert gathered.ids == ["r:0", "r:1", "r:2"] and gathered.pool["image"]["vector"].flatten().tolist() == [1.0, 2.0, 3.0]
    step = collator.exchanged(gathered, [0, 0, 1, 2], {"image": [1, 2, None, 0], "question": [0, 2, None, 1]})
    (batch,) = step.batches
    assert batch.ids == ["r:0", "r:0", "r:1", "r:2"] and step.pool is gathered.pool
    assert batch.inputs["image_index"].tolist() == [[1, 2], [-1, -1], [-1, -1], [0, -1]]
    assert batch.inputs["length"].tolist() == [3, 7, 0, 6]
    own = collator.exchanged(gathered, [2, 1], {}).batches[0]
    assert own.inputs["image_index"].tolist() == [[-1, -1], [1, 2]] and own.inputs["length"].tolist() == [7, 6]
    with pytest.raises(RecipeError, match="'imag'; did you mean 'image'"):
        collator.exchanged(gathered, [0], {"imag": [0]})


def test_rows_without_any_input_are_kept_where_asked(fakes):
    rows = rows_of(fakes, [row(None, None), row("dot:1")])
    assert Collator([fakes.Answer()], fakes.processor()).gathered(rows).ids == ["r:1"]
    assert Collator([fakes.Answer()], fakes.processor(), empty=True).gathered(rows).ids == ["r:0", "r:1"]
