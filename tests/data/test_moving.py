"""The built-in clips: the same every time, true to what they show, balanced, and silent in any single frame that says nothing."""

import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest

from chiasm.data.scenes.layout import HANDWRITING
from chiasm.data.scenes.motion import DIRECTIONS, FRAMES, MIDDLE, SIDE, SIZE
from chiasm.data.scenes.things import COLOURS, DIGITS, THINGS, held_out
from chiasm.data.sources.moving import JUMPS, PLANS, ROWS, Moving
from chiasm.types import Film, RecipeError

CLIPS = 900


def clips_of(split, number=CLIPS):
    """(the drawn layout, rows) of the first clips; the layout is what is drawn from, not the texts."""
    source = Moving(split, clips=number)
    for clip in range(number):
        rows = [source.read(clip * source.rows + row).parts for row in range(source.rows)]
        yield rows[0]["video"].draw.args[0].frames, rows


def way(path):
    """Which way a thing's corners [(x, y), ...] go."""
    (x, y), (to_x, to_y) = path[0], path[-1]
    return next(name for name, (across, down) in DIRECTIONS.items() if (np.sign(to_x - x), np.sign(to_y - y)) == (across, down))


def true_answer(frames, row):
    """Worked out from where things are in the frames."""
    paths = {thing.thing: [next((t.x, t.y) for t in frame if t.thing == thing.thing) for frame in frames] for thing in frames[0]}
    colours = {thing.thing: thing.colour for thing in frames[0]}
    words = row["question"].removesuffix(" ?").split()
    match row["kind"]:
        case "direction":
            assert colours[words[-2]] == words[-3]
            return way(paths[words[-2]])
        case "order":
            return colours[min(paths, key=lambda name: next(i for i, place in enumerate(paths[name]) if place != paths[name][0]))]
        case "swap":
            a, b = paths.values()
            return "yes" if a[0] == b[-1] and b[0] == a[-1] else "no"
        case "colour":
            return colours[words[-1]]
    return next(name for name, colour in colours.items() if colour == words[-1])


@pytest.mark.parametrize("split", [name for name in PLANS if name != "things"])
def test_every_answer_is_true(split):
    kinds = Counter()
    for number, (frames, rows) in enumerate(clips_of(split, 90)):
        for row in rows:
            assert row["answer"] == true_answer(frames, row), row
            kinds[row["kind"]] += 1
        assert ("swap" in [row["kind"] for row in rows]) == (number % JUMPS == 0)
    assert set(kinds) == {"direction", "order", "swap", "colour", "thing"}


def test_a_record_depends_on_seed_split_and_number_only():
    first, again = Moving("train"), Moving("train", clips=50)
    for index in (149, 0, 17, 8):
        a, b = first.read(index), again.read(index)
        assert a.id == b.id and a.parts["question"] == b.parts["question"] and a.parts["video"].key == b.parts["video"].key
        assert np.array_equal(a.parts["video"].draw().frames, b.parts["video"].draw().frames)
    other = [Moving(*key).read(3).parts["video"].draw().frames for key in (("train",), ("validation",), ("things",))]
    assert not np.array_equal(other[0], other[1]) and not np.array_equal(
        other[0], Moving("train", seed=1).read(3).parts["video"].draw().frames
    )
    assert pickle.loads(pickle.dumps(first.read(0).parts["video"])).key == "moving/train/0-000000"
    assert first.read(4).parts["question"] == "what colour moves first ?"  # pinned, so that a change of the data set is noticed
    assert first.read(4).parts["answer"] == "purple"


@pytest.mark.parametrize("split", list(PLANS))
def test_frames_are_whole_and_things_keep_apart(split):
    for frames, rows in clips_of(split, 60):
        film = rows[0]["video"].draw()
        assert isinstance(film, Film) and film.frames.shape == (FRAMES, SIDE, SIDE, 3) and np.all(np.diff(film.times) == 0.25)
        for frame in frames:
            assert all(0 <= t.x <= SIDE - SIZE and 0 <= t.y <= SIDE - SIZE for t in frame)
            if len(frame) == 2:
                a, b = frame
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= SIZE and a.colour != b.colour


def test_answers_are_balanced_and_questions_do_not_tell():
    """For each kind the commonest answer, also after its question's words are known, is near chance."""
    counts = defaultdict(Counter)
    for _, rows in clips_of("train"):
        for row in rows:
            counts[row["kind"]][row["answer"]] += 1
            if row["kind"] == "direction":
                counts[row["question"].split()[4]][row["answer"]] += 1  # by the colour that is asked about
    for kind, chance in (("direction", 1 / 4), ("swap", 1 / 2), ("order", 1 / 8), ("colour", 1 / 8)):
        assert max(counts[kind].values()) / counts[kind].total() < chance + 0.08, kind
    assert all(max(counts[colour].values()) / counts[colour].total() < 0.5 for colour in COLOURS)


def test_the_middle_frame_tells_nothing_that_moves():
    """Where the things are in it has the same mean and spread whatever the answer, to within four standard errors."""
    places = defaultdict(list)
    for frames, rows in clips_of("train", 3 * CLIPS):
        for row in rows:
            a, b = frames[MIDDLE]
            if row["kind"] == "direction":
                asked, other = (a, b) if a.thing == row["question"].split()[5] else (b, a)
                places["direction", row["answer"]].append((asked.x, asked.y, other.x, other.y))
            elif row["kind"] == "order":  # which of the two stands higher
                high, low = sorted((a, b), key=lambda thing: thing.y)
                places["order", "high" if row["answer"] == high.colour else "low"].append((high.x, high.y, low.x, low.y))
            elif row["kind"] == "swap":
                places["swap", row["answer"]].append((a.x, a.y, b.x, b.y))
    for kind in ("direction", "order", "swap"):
        groups = [np.array(values, float) for (name, _), values in places.items() if name == kind]
        assert len(groups) == (4 if kind == "direction" else 2) and all(len(group) > 250 for group in groups)
        every = np.concatenate(groups)
        for group in groups:
            assert np.all(np.abs(group.mean(0) - every.mean(0)) < 4 * every.std(0) / len(group) ** 0.5), kind
            assert np.all(np.abs(group.std(0) - every.std(0)) < 4 * every.std(0) / len(group) ** 0.5), kind


def test_what_is_held_apart():
    """Handwriting by split; new pairs in one split only, and there in every clip."""
    hands, pairs = defaultdict(set), defaultdict(list)
    for split in PLANS:
        for frames, _ in clips_of(split, 150):
            hands[PLANS[split].people] |= {thing.hand for thing in frames[0] if thing.hand >= 0}
            pairs[split].append([held_out(thing.thing, thing.colour) for thing in frames[0]])
    for people, seen in hands.items():
        assert seen and seen <= set(HANDWRITING[people]), people
    for split, held in pairs.items():
        assert all(map(any, held)) if split == "test_new_pairs" else not any(map(any, held)), split


def test_single_things_that_move():
    source = Moving("things")
    assert source.rows == 1 and list(source.columns) == ["video", "thing", "colour", "direction"]
    seen = Counter()
    for frames, (row,) in clips_of("things", 200):
        assert [len(frame) for frame in frames] == [1] * FRAMES
        assert (row["thing"], row["colour"]) == (frames[0][0].thing, frames[0][0].colour)
        assert row["direction"] == way([(frame[0].x, frame[0].y) for frame in frames])
        seen[row["thing"]] += 1
    assert set(seen) <= set(THINGS) and set(DIGITS) & set(seen)


def test_rows_of_a_clip_stand_together():
    lengths, groups = Moving("test").outline()
    assert len(lengths) == len(groups) == len(Moving("test")) == 400 * ROWS and groups[:4] == [0, 0, 0, 1]
    assert list(Moving("things").outline()[1][:3]) == [0, 1, 2]


def test_wrong_names():
    with pytest.raises(RecipeError, match="did you mean 'train'"):
        Moving("trian")
    with pytest.raises(RecipeError, match="type 1 or more"):
        Moving("train", clips=0)
    with pytest.raises(IndexError):
        Moving("validation").read(300)
