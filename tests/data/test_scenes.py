"""The built-in data: the same every time, true to its pictures, closed in its words, and split as promised."""

import itertools
import json
import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest

from chiasm.data.scenes.draw import CROP, SCENE, SIZES, digits, draw, handwriting, pictogram
from chiasm.data.scenes.export import export
from chiasm.data.scenes.language import WORDS
from chiasm.data.scenes.layout import HANDWRITING, SLOTS, SPLITS
from chiasm.data.scenes.shots import MADE_UP, NEW
from chiasm.data.scenes.speech import FOLDER, say, speakers, speech_index
from chiasm.data.scenes.things import COLOURS, DIGITS, NEW_COLOUR, PICTOGRAMS, THINGS, held_out
from chiasm.data.sources.scenes import ROWS, Scenes
from chiasm.media.clips import read_clips
from chiasm.types import ChiasmError, RecipeError

SCENE_SPLITS = [name for name, plan in SPLITS.items() if plan.unit == "scene"]


def scenes_of(split, number, **options):
    """(things by slot, rows) of the first scenes; the things are read from what the picture is drawn from, not from the texts."""
    source = Scenes(split, scenes=number, **options)
    for scene in range(number):
        rows = [source.read(scene * ROWS + row).parts for row in range(ROWS)]
        placed = rows[0]["image"].draw.args[2]
        yield {(t.x + t.size / 2 >= CROP) + 2 * (t.y + t.size / 2 >= CROP): t for t in placed}, rows


def texts(parts):
    return {column: value for column, value in parts.items() if isinstance(value, str)}


def true_answer(things, row):
    """The answer to a row's question, worked out from the layout by matching the words of the question."""
    words = row["question"].removesuffix(" ?").split()
    by_name = {thing.thing: (slot, thing) for slot, thing in things.items()}
    if "audio" in row:
        heard = row["audio"].key.split("/")[1]
        words = [heard if w in ("thing", "these") else w for w in words]
    name = words[-1]
    match words:
        case ["what", "is", "in", "the", *place]:
            return things[SLOTS.index(" ".join(place))].thing
        case ["what", "is", "the", "sum", *_]:
            return DIGITS[sum(DIGITS.index(n) for n in by_name if n in DIGITS) % 10]
        case ["what", "colour", "is", *_]:
            return by_name[name][1].colour
        case ["where", *_]:
            return SLOTS[by_name[name][0]]
        case ["is", "there", *_]:
            return "yes" if name in by_name else "no"
        case ["how", "many", which, *_]:
            keep = {"things": lambda t: True, "digits": lambda t: t.thing in DIGITS}.get(which, lambda t: t.colour == which)
            return DIGITS[sum(map(keep, things.values()))]
        case ["what", "is", side, *_]:
            row_step, column_step = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}[side]
            row_now, column_now = divmod(by_name[name][0], 2)
            return things[2 * (row_now + row_step) + column_now + column_step].thing
    raise AssertionError(f"unknown question {row['question']}")


def test_a_record_depends_on_seed_split_and_number_only():
    first, again = Scenes("train"), Scenes("train", scenes=50)
    for index in (399, 0, 17, 8):
        a, b = first.read(index), again.read(index)
        assert a.id == b.id and texts(a.parts) == texts(b.parts)
        assert a.parts["image"].key == b.parts["image"].key
        assert np.array_equal(a.parts["image"].draw(), b.parts["image"].draw())
    assert Scenes("train", seed=1).read(0).parts["caption"] != first.read(0).parts["caption"]
    assert Scenes("validation").read(0).parts["caption"] != first.read(0).parts["caption"]
    # pinned, so that a change of the data set is noticed
    assert first.read(0).parts["caption"] == "a black keyboard above a purple five"


@pytest.mark.parametrize("split", SCENE_SPLITS)
def test_every_answer_is_true_and_no_question_is_asked_twice(split):
    for things, rows in scenes_of(split, 300):
        assert len({(row["question"], "audio" in row) for row in rows[1:]}) == ROWS - 1
        assert sum(row["kind"] == "spoken" for row in rows[1:]) == 1
        for row in rows[1:]:
            assert row["answer"] == true_answer(things, row), (things, row)


def test_captions_name_every_thing_in_reading_order():
    for things, rows in scenes_of("train", 300):
        words = rows[0]["caption"].split()
        named = [(c, t) for c, t in itertools.pairwise(words) if t in THINGS and c in COLOURS]
        assert named == [(things[slot].colour, things[slot].thing) for slot in sorted(things)]
        assert ("above" in words) == (len({slot // 2 for slot in things}) == 2)


def test_the_vocabulary_is_closed_and_has_no_idle_words():
    said = set()
    for split in SCENE_SPLITS:
        for _, rows in scenes_of(split, 300):
            said.update(" ".join(row[c] for row in rows for c in ("caption", "question", "answer") if c in row).split())
    assert said == set(WORDS)
    assert all(word == word.lower() for word in WORDS)


def test_every_kind_is_frequent_and_hard_to_guess_from_the_question():
    kinds, answers = Counter(), defaultdict(Counter)
    for _, rows in scenes_of("train", 1500):
        for row in rows[1:]:
            kinds[row["kind"]] += 1
            answers[row["kind"], row["question"]][row["answer"]] += 1
    assert set(kinds) == {"what", "colour", "where", "count", "count_colour", "count_kind", "exists", "relation", "sum", "spoken"}
    share = {kind: number / kinds.total() for kind, number in kinds.items()}
    assert share["sum"] > 0.08 and share["count_colour"] + share["count_kind"] > 0.15 and min(share.values()) > 0.02
    best = sum(counter.most_common(1)[0][1] for counter in answers.values()) / kinds.total()
    assert best < 0.40
    yes = sum((answers[key] for key in answers if key[0] == "exists"), Counter())
    assert 0.45 < yes["yes"] / yes.total() < 0.55


def test_splits_share_no_handwriting_no_voice_and_no_new_pair():
    for split in SPLITS:
        plan, people = SPLITS[split], SPLITS[split].people
        source = Scenes(split, scenes=300)
        for sample in map(source.read, range(len(source))):
            if "image" in sample.parts:
                placed = sample.parts["image"].draw.args[2]
                assert all(t.hand in HANDWRITING[people] for t in placed if t.thing in DIGITS)
                assert any(held_out(t.thing, t.colour) for t in placed) == plan.new_pairs
            if "audio" in sample.parts:
                assert speech_index()["voices"][sample.parts["audio"].draw.args[1]]["split"] == people
    rows = [set(r) for r in HANDWRITING.values()]
    assert sum(map(len, rows)) == len(set().union(*rows)) == len(digits()[1])
    voices = [{voice for voice, _ in speakers(people)} for people in HANDWRITING]
    assert sum(map(len, voices)) == len(set().union(*voices)) >= 10 and [len(v) for v in voices][1:] == [1, 2]
    pairs = [(t, c) for t in THINGS for c in COLOURS if held_out(t, c)]
    assert len(pairs) == len(NEW_COLOUR) == 32 and set(dict(pairs).values()) == set(COLOURS)


def test_handwriting_shows_the_digit_that_is_named():
    labels = digits()[1]
    for things, _ in scenes_of("test", 200):
        assert all(DIGITS[labels[t.hand]] == t.thing for t in things.values() if t.thing in DIGITS)


def test_pictures_show_what_they_should():
    for split, side in (("train", SCENE), ("things", CROP)):
        image = Scenes(split).read(0).parts["image"]
        picture = pickle.loads(pickle.dumps(image)).draw()
        assert picture.dtype == np.uint8 and picture.shape == (side, side, 3) and np.array_equal(picture, image.draw())
    for things, rows in scenes_of("train", 100):
        picture = rows[0]["image"].draw().astype(int)
        background = rows[0]["image"].draw.args[1]
        for slot, (top, left) in enumerate(itertools.product((0, 32), (0, 32))):
            quarter = picture[top : top + 32, left : left + 32]
            far = np.abs(quarter - background).sum(2)
            assert (far.max() > 0) == (slot in things)
            if slot in things:
                strongest = quarter.reshape(-1, 3)[far.argmax()]
                nearest = min(COLOURS, key=lambda c: np.abs(strongest - COLOURS[c]).sum())
                assert nearest == things[slot].colour


@pytest.mark.parametrize("size", SIZES)
def test_pictograms_are_distinct_and_fill_their_square(size):
    masks = np.stack([pictogram(thing, size) for thing in PICTOGRAMS]).astype(float)
    assert (masks.mean((1, 2)) > 15).all() and (masks.max((1, 2)) > 200).all()
    assert all(max(np.ptp(np.flatnonzero(m.max(0) > 40)), np.ptp(np.flatnonzero(m.max(1) > 40))) >= size - 3 for m in masks)
    flat = masks.reshape(len(masks), -1)
    distances = np.abs(flat[:, None] - flat[None]).mean(2) + 999 * np.eye(len(flat))
    assert distances.min() > 25
    assert handwriting(0, size).max() > 200


def test_drawing_agrees_with_plain_alpha_blending():
    placed = Scenes("train").read(0).parts["image"].draw.args[2]
    picture = np.full((SCENE, SCENE, 3), (240, 240, 240), float)
    for t in placed:
        mask = (pictogram(t.thing, t.size) if t.hand < 0 else handwriting(t.hand, t.size))[..., None] / 255
        area = picture[t.y : t.y + t.size, t.x : t.x + t.size]
        area[:] = area * (1 - mask) + np.array(COLOURS[t.colour]) * mask
    assert np.abs(draw(SCENE, (240, 240, 240), placed) - picture).max() <= 1


def test_every_voice_says_every_word_audibly():
    index = speech_index()
    assert index["words"] == list(THINGS) and len(index["voices"]) >= 10
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 1_500_000
    for people in HANDWRITING:
        for voice, take in speakers(people):
            for word in THINGS:
                sound = say(word, voice, take)
                seconds = len(sound.samples) / sound.rate
                assert sound.rate == 8000 and sound.samples.dtype == np.float32 and 0.2 < seconds < 1.2, (word, voice, seconds)
                assert np.sqrt((sound.samples**2).mean()) > 0.03 and np.abs(sound.samples).max() <= 1, (word, voice)
    samples, rate = read_clips(FOLDER / "adam.ogg")
    assert rate == 8000 and len(samples) == sum(length + index["gap"] for take in index["voices"]["adam"]["lengths"] for length in take)


def test_no_two_voices_are_the_same():
    said = {voice: say("umbrella", voice, 0).samples for people in HANDWRITING for voice, take in speakers(people) if take == 0}
    spectra = {voice: np.abs(np.fft.rfft(samples, 8000)) for voice, samples in said.items()}
    for a, b in itertools.combinations(spectra, 2):
        assert np.corrcoef(spectra[a], spectra[b])[0, 1] < 0.99, (a, b)


def test_things_and_words_rows():
    things, words, unseen = Scenes("things"), Scenes("words"), Scenes("words_test")
    assert len(things) == 20_000 and len(Scenes("things", scenes=7)) == 7
    sample = things.read(5)
    placed = sample.parts["image"].draw.args[2]
    assert [(t.thing, t.colour) for t in placed] == [(sample.parts["thing"], sample.parts["colour"])]
    assert len(words) == len(speakers("train")) * len(THINGS) and len(unseen) == len(speakers("test")) * len(THINGS)
    keys = {words.read(i).parts["audio"].key for i in range(len(words))}
    assert len(keys) == len(words) and all(words.read(i).parts["audio"].key.endswith(words.read(i).parts["thing"]) for i in (0, 41, 99))


def test_views_show_say_or_tell_one_thing():
    """Training has two combinations; the test split has every other one too, and the caption names the thing half of the time."""
    seen, every = [[Scenes(split).read(i).parts for i in range(700)] for split in ("views", "views_test")]
    assert {row["kind"] for row in seen} == {"caption+image", "caption+audio"}
    subsets = {"+".join(s) for n in (1, 2, 3) for s in itertools.combinations(("caption", "image", "audio"), n)}
    assert {row["kind"] for row in every} == subsets
    for row in (*seen, *every):
        assert {*row["kind"].split("+"), "thing", "kind"} == set(row)
        if "image" in row:
            (placed,) = row["image"].draw.args[2]
            assert placed.thing == row["thing"] and row.get("caption", placed.colour).find(placed.colour) >= 0
        if "audio" in row:
            assert row["audio"].key.endswith(f"/{row['thing']}")
        if "caption" in row:
            assert row["caption"].split()[-1] in (row["thing"], "thing")
    named = [row["caption"].split()[-1] == row["thing"] for row in seen]
    assert 0.4 < np.mean(named) < 0.6
    assert not {row["audio"].key for row in seen if "audio" in row} & {row["audio"].key for row in every if "audio" in row}


def test_lengths_columns_and_wrong_names():
    assert [len(Scenes(split)) // ROWS for split in SCENE_SPLITS] == [20_000, 100, 1_000, 1_000]
    assert {c for i in range(ROWS) for c in Scenes("test").read(i).parts} == set(Scenes("test").columns)
    assert Scenes("test").origin(9) == ("test:9", "scenes/test", 9)
    with pytest.raises(RecipeError, match="no split 'tran'; did you mean 'train'"):
        Scenes("tran")
    with pytest.raises(RecipeError, match="type 1 or more"):
        Scenes("train", scenes=0)
    with pytest.raises(IndexError):
        Scenes("test", scenes=1).read(ROWS)


def test_export_holds_the_same_data(tmp_path):
    from PIL import Image

    folder = tmp_path / "scenes"
    assert export(folder, seed=3, scenes_per_split=4) == {"train": 32, "validation": 32, "test": 32, "test_new_pairs": 32}
    for split in ("train", "test_new_pairs"):
        source = Scenes(split, seed=3)
        for index, line in enumerate((folder / f"{split}.jsonl").read_text().splitlines()):
            record, parts = json.loads(line), source.read(index).parts
            assert {k: v for k, v in record.items() if k not in ("image", "audio")} == texts(parts)
            assert np.array_equal(np.asarray(Image.open(folder / record["image"])), parts["image"].draw())
            if "audio" in record:
                samples, rate = read_clips(folder / record["audio"])
                assert rate == 8000 and np.abs(samples - parts["audio"].draw().samples).max() < 1e-4
    assert len(list((folder / "images/train").iterdir())) == 4
    assert "images/train/" in (folder / "README.txt").read_text() and "train: train.jsonl" in (folder / "recipe.yaml").read_text()
    with pytest.raises(ChiasmError, match="not an empty folder"):
        export(folder)


def test_the_exported_recipe_is_a_recipe(tmp_path):
    from chiasm.recipe import load_recipe

    export(tmp_path / "out", scenes_per_split=1, splits=("train", "things", "words"))
    recipe = load_recipe(tmp_path / "out/recipe.yaml")
    assert set(recipe.data.named()) == {"train"} and set(recipe.inputs) == {"image", "audio", "question"}


def test_dialogues_are_true_to_their_pictures():
    """Every turn is answered from the layout; what "it" is comes from the first one."""
    source, kinds = Scenes("dialogue", scenes=300), Counter()
    for parts in (source.read(i).parts for i in range(len(source))):
        things = {(t.x + t.size / 2 >= CROP) + 2 * (t.y + t.size / 2 >= CROP): t for t in parts["image"].draw.args[2]}
        turns = [*parts["history"], {"question": parts["question"], "answer": parts["answer"]}]
        first, kinds[parts["kind"]] = turns[0], kinds[parts["kind"]] + 1
        assert parts["kind"] == f"turn {len(turns)}" and 2 <= len(turns) <= 4 and len({t["question"] for t in turns}) == len(turns)
        assert true_answer(things, {**first, "question": first["question"]}) == first["answer"]
        named = first["answer"] if first["question"].startswith("what is in") else first["question"].split()[-2]
        slot, thing = next((slot, thing) for slot, thing in things.items() if thing.thing == named)
        beside = things.get(slot ^ 1)
        said = {
            "what colour is it ?": thing.colour,
            "where is it ?": SLOTS[slot],
            "is it a digit ?": "yes" if named in DIGITS else "no",
            "what is beside it ?": beside.thing if beside else "nothing",
        }
        assert all(said[turn["question"]] == turn["answer"] for turn in turns[1:])
    assert set(kinds) == {"turn 2", "turn 3", "turn 4"} and min(kinds.values()) > 60


@pytest.mark.parametrize("split", ["shots", "shots_test", "shots_new"])
def test_examples_tell_what_a_word_means(split):
    source, counts, answers = Scenes(split, scenes=500), Counter(), Counter()
    for parts in (source.read(i).parts for i in range(len(source))):
        shown = [(shot["image"].draw.args[2][0].colour, shot["answer"]) for shot in parts["shots"]]
        asked = parts["image"].draw.args[2][0].colour
        meaning, count = dict(shown), len(shown)
        assert all(meaning[colour] == word for colour, word in shown), "a word means one colour in a row"
        assert len(set(meaning.values())) == len(meaning) == min(2, count)
        assert (asked in NEW) == (split == "shots_new")
        if count >= 2:
            assert meaning[asked] == parts["answer"]
        elif count:
            assert (asked in meaning) == (parts["answer"] in meaning.values())
        counts[parts["kind"]] += 1
        answers[parts["answer"]] += 1
        assert len({p.key for p in [parts["image"], *(shot["image"] for shot in parts["shots"])]}) == count + 1
    assert counts == {f"{n} shots": 100 for n in range(5)}
    assert set(answers) == set(MADE_UP) and max(answers.values()) < 2 * min(answers.values())


def test_a_list_of_records_is_written_with_its_pictures(tmp_path):
    assert export(tmp_path / "data", scenes_per_split=5, splits=["shots"]) == {"shots": 5}
    rows = [json.loads(line) for line in (tmp_path / "data" / "shots.jsonl").read_text().splitlines()]
    assert [len(row["shots"]) for row in rows] == [0, 1, 2, 3, 4]
    assert all((tmp_path / "data" / shot["image"]).is_file() for row in rows for shot in row["shots"])
