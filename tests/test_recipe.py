"""Recipes: what is read, what is refused, and that a typo is answered with the right key."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from chiasm.recipe import Recipe, load_recipe
from chiasm.recipe_check import check_components
from chiasm.recipe_errors import RecipeProblems
from chiasm.recipe_yaml import dump, parse_document
from chiasm.types import RecipeError

TEXT = """\
inputs:   {image: image, question: text}
encoders:
  image:  {arch: resnet, depths: [1], connector: mlp, train: none}
backbone: {arch: gpt2, n_layer: 2, tokenizer: words, train: {lora: {rank: 16}}}
fusion:   {type: gated_cross_attention, every: 2}
tasks:
  align:  {type: contrast, between: [image, caption]}
  answer: {type: generate, prompt: "Question: {question} Answer:", target: "{answer}"}
data:     {train: data/train.jsonl, validation: {file: val.jsonl, join: {file: images.csv, key: id}}, group_by: patient}
stages:
  - {name: align,    epochs: 1, tasks: [align],  train: [encoders.image.connector]}
  - {name: finetune, epochs: 3, tasks: [answer], batch_size: 32, learning_rate: 3e-4}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "my.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def smallest(**more: Any) -> dict[str, Any]:
    return {"inputs": {"text": "text"}, "tasks": {"label": {"type": "classify", "target": "label"}}, **more}


def problems(recipe: Any, *overrides: str) -> list[str]:
    with pytest.raises(RecipeProblems) as error:
        check_components(load_recipe(recipe, overrides))
    assert "\n" not in str(error.value)
    return error.value.problems


def test_reads_the_recipe_of_the_design(recipe_file: Path):
    recipe = load_recipe(recipe_file)
    assert recipe.name == "my"
    assert recipe.inputs["image"].modality == "image"
    assert recipe.encoders["image"].connector.type == "mlp"
    assert recipe.encoders["image"].options == {"depths": [1]}
    assert recipe.backbone.train.lora.rank == 16
    assert recipe.backbone.tokenizer.type == "words"
    assert recipe.fusion.options == {"every": 2}
    assert recipe.stages[1].learning_rate == 3e-4
    assert recipe.stages[1].name == "finetune"
    assert recipe.data.named()["validation"].join.key == "id"
    assert recipe.encoder_for("image").arch == "resnet"
    check_components(recipe)


def test_shorthands_mean_the_same_as_the_long_forms():
    short = load_recipe(smallest(fusion="late", stages={"steps": 5}, data="scenes", backbone="openai-community/gpt2"))
    long = load_recipe(
        smallest(fusion={"type": "late"}, stages=[{"steps": 5}], data={"builtin": "scenes"}, backbone={"model": "openai-community/gpt2"})
    )
    assert short == long
    assert load_recipe(smallest(inputs={"audio": {"seconds": 3}})).inputs["audio"].modality == "audio"


def test_a_text_with_an_encoder_of_its_own_is_a_stream():
    inputs = {"caption": "text", "note": {"modality": "text", "column": "Note"}, "question": "text"}
    task = {"answer": {"type": "generate", "prompt": "{question} {caption}", "target": "{answer}"}}
    one = load_recipe(smallest(inputs=inputs, encoders={"caption": {"arch": "bert", "train": "none"}}, tasks=task))
    assert {name: spec.modality for name, spec in one.inputs.items()} == {"caption": "tokens", "note": "text", "question": "text"}
    both = {"text": {"arch": "bert"}, "note": "roberta-base"}
    every = load_recipe(smallest(inputs=inputs, encoders=both, tasks=task))
    assert {spec.modality for spec in every.inputs.values()} == {"tokens"} and every.inputs["note"].options == {"column": "Note"}
    assert {name: spec.model or spec.arch for name, spec in every.encoders.items()} == {
        "caption": "bert",
        "note": "roberta-base",
        "question": "bert",
    }
    for recipe in (one, every):
        assert load_recipe(recipe) == recipe
    named = load_recipe(smallest(inputs={"text": "text", "question": "text"}, encoders={"text": {"arch": "bert"}}))
    assert named.inputs["question"].modality == "text"  # the entry is of the input that is called so


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"text": "text"}, "encoders": {"text": {"arch": "bert"}}}, "only prompt text may be called so; write e.g. sentence:"),
        ({"inputs": {"answer": "text"}, "encoders": {"text": {"arch": "bert"}}}, "the text 'answer', which its encoder already gives it"),
        ({"inputs": {"note": {"modality": "text", "column": "answer"}}, "encoders": {"note": {"arch": "bert"}}}, "the text 'note'"),
        ({"inputs": {"caption": {"modality": "text", "max_token": 9}}, "encoders": {"caption": {"arch": "bert"}}}, "caption.max_tokens"),
        ({"inputs": {"caption": "text"}, "encoders": {"caption": {"train": "none"}}}, "encoders.caption names no network"),
        ({"inputs": {"image": "image"}, "encoders": {"text": {"arch": "bert"}}}, "encoders.text: no input has this name"),
    ],
)
def test_text_streams_are_checked(changes: dict[str, Any], message: str):
    changes = {**changes, "tasks": {"answer": {"type": "generate", "prompt": "", "target": "{answer}"}}}
    with pytest.raises(RecipeProblems) as error:
        check_components(load_recipe(smallest(**changes)))
    assert message in "\n".join(map(str, error.value.problems))


def test_defaults_are_one_stage_of_one_epoch():
    recipe = load_recipe(smallest())
    assert [stage.name for stage in recipe.stages] == ["main"]
    assert recipe.stages[0].epochs == 1
    assert load_recipe(smallest(stages={"steps": 5})).stages[0].epochs is None


def test_the_resolved_recipe_reads_back_equal(recipe_file: Path, tmp_path: Path):
    recipe = load_recipe(recipe_file, ["train.seed=3", "tasks.answer.weight=2", "train.weight_decay=1e-5"])
    again = tmp_path / "recipe.yaml"
    again.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(again) == recipe
    assert load_recipe(recipe) == recipe
    assert "learning_rate: 0.0003" in recipe.to_yaml()
    assert "options" not in recipe.to_yaml()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 0.0003),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("on", "on"),
        ("no", "no"),
        ("010", 10),
        ("0x10", 16),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("~", None),
        ("'3e-4'", "3e-4"),
        ("true", True),
        ("-.inf", -float("inf")),
    ],
)
def test_yaml_1_2_scalars_and_back(text: str, value: Any):
    assert parse_document(f"key: {text}").data == {"key": value}
    assert parse_document(dump({"key": value})).data == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "r.yaml:2:1: key a is given twice"),
        ("a: {b: 1, b: 2}", "r.yaml:1:11: key a.b is given twice"),
        ("a: *x", "r.yaml:1:4: write the value of *x out"),
        ("a: [1", "r.yaml:1:"),
        ("a: !!python/object:x {}", "r.yaml:1:4: the tag"),
        ("? [a]\n: 3", "a key must be a plain word"),
        ("a: \x00", "r.yaml: not YAML"),
    ],
)
def test_a_syntax_error_names_file_line_and_column(text: str, message: str):
    with pytest.raises(RecipeError) as error:
        parse_document(text, "r.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("stages.0.steps=10", lambda r: r.stages[0].steps, 10),
        ("stages.finetune.steps=10", lambda r: r.stages[1].steps, 10),
        ("tasks.answer.weight=2", lambda r: r.tasks["answer"].weight, 2),
        ("inputs.image.size=64", lambda r: r.inputs["image"].options, {"size": 64}),
        ("encoders.image.connector.hidden=8", lambda r: r.encoders["image"].connector.options, {"hidden": 8}),
        ("train.best=validation answer.exact_match", lambda r: r.train.best, "validation answer.exact_match"),
        ("tasks.answer.prompt=Q: {question}", lambda r: r.tasks["answer"].options["prompt"], "Q: {question}"),
        ("stages.align.tasks=[align, answer]", lambda r: r.stages[0].tasks, ["align", "answer"]),
        ("train.clip=null", lambda r: r.train.clip, None),
        ("fusion.absent=learned", lambda r: r.fusion.options, {"every": 2, "absent": "learned"}),
        ("encoders.image.connector=q_former", lambda r: r.encoders["image"].connector.type, "q_former"),
        ("train.modality_dropout=0.3", lambda r: r.train.modality_dropout, 0.3),
        ("train.balance={}", lambda r: (r.train.balance.weight, r.train.balance.modulate, r.train.balance.alpha), (0.3, False, 0.5)),
        ("train.balance.weight=0.5", lambda r: (r.train.balance.weight, r.train.balance.modulate), (0.5, False)),
        ("train.modality_dropout.image=0.5", lambda r: r.train.modality_dropout, {"image": 0.5}),
    ],
)
def test_overrides(recipe_file: Path, override: str, where: Any, value: Any):
    assert where(load_recipe(recipe_file, [override])) == value


def test_overrides_make_the_default_stage():
    assert load_recipe(smallest(), ["stages.0.steps=10"]).stages[0].steps == 10
    assert load_recipe(smallest(stages={"steps": 5}), ["stages.main.steps=10"]).stages[0].steps == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.sed=3", "override train.sed=3: unknown key train.sed; did you mean train.seed?"),
        ("trian.seed=3", "override trian.seed=3: unknown key trian; did you mean train?"),
        ("stages.fintune.steps=3", "override stages.fintune.steps=3: no stages.fintune; did you mean stages.finetune?"),
        ("stages.2.steps=3", "no stages.2; there are 0 (align), 1 (finetune)"),
        ("stages.align.stepps=3", "override stages.align.stepps=3: unknown key stages.align.stepps; did you mean stages.align.steps?"),
        ("stages.align.steps=x", "override stages.align.steps=x: stages.align.steps: 'x' is not allowed"),
        ("stages.align.epochs.x=3", "override stages.align.epochs.x=3: stages.align.epochs is 1, which has no keys"),
        ("stages.0.stepps=3", "override stages.0.stepps=3: unknown key stages.0.stepps; did you mean stages.0.steps?"),
        ("tasks.anser.weight=3", "no tasks.anser; did you mean 'answer'?"),
        ("train.seed.x=3", "train.seed: {'x': 3} is not allowed; allowed: a whole number"),
        ("train.seed", "write key=value"),
        ("stages.0.steps=x", "stages.0.steps: 'x' is not allowed; allowed: a whole number"),
        ("train.seed=[1", "override train.seed=[1:1:"),
    ],
)
def test_wrong_overrides(recipe_file: Path, override: str, message: str):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe_file, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_problems_at_once_with_their_lines(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text(
        "inputs: {image: image}\n"
        "tasks: {a: {weight: 1}}\n"
        "train:\n"
        "  learnig_rate: 1\n"
        "  learning_rate: 1\n"
        "  sead: 1\n"
        "  precision: fp23\n"
        "  clip: -1\n"
        "  num_workers: '3'\n"
        "  device: gpu\n"
        "backbone: {train: {lora: {rnk: 4}}}\n"
        "encoders: {image: {train: some}}\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeProblems) as error:
        load_recipe(file)
    assert [problem.removeprefix(f"{tmp_path}/") for problem in error.value.problems] == [
        "r.yaml:2: tasks.a.type is missing",
        "r.yaml:4: unknown key train.learnig_rate; did you mean stages.N.learning_rate?",
        "r.yaml:5: unknown key train.learning_rate; learning_rate belongs to stages.N",
        "r.yaml:6: unknown key train.sead; did you mean train.seed?",
        "r.yaml:7: train.precision: 'fp23' is not allowed; did you mean 'fp32'? allowed: auto, fp32, bf16",
        "r.yaml:8: train.clip: -1 is not allowed; allowed: a number > 0",
        "r.yaml:9: train.num_workers: '3' is not allowed; allowed: a whole number",
        "r.yaml:10: train.device: 'gpu' is not allowed; allowed: auto, cpu, cuda, cuda:0, mps",
        "r.yaml:11: unknown key backbone.train.lora.rnk; did you mean backbone.train.lora.rank?",
        "r.yaml:12: encoders.image.train: 'some' is not allowed; allowed: all, none or a whole number or a mapping",
    ]
    assert str(error.value).endswith("(and 9 more; `chiasm check` shows all)")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fusion.type=lates", "fusion.type: unknown fusion 'lates'; did you mean 'late'?"),
        ("fusion.evry=3", "unknown key fusion.evry; did you mean fusion.every?"),
        ("fusion.absent=learnd", "fusion.absent: 'learnd' is not allowed; did you mean 'learned'? allowed: none, learned"),
        ("encoders.image.arch=resnett", "encoders.image.arch: unknown arch 'resnett'; did you mean 'resnet'?"),
        ("encoders.image.dephts=[1]", "unknown key encoders.image.dephts; did you mean encoders.image.depths?"),
        ("encoders.image.conector=mlp", "unknown key encoders.image.conector; did you mean encoders.image.connector?"),
        ("encoders.image.connector.hiden=8", "unknown key encoders.image.connector.hiden; did you mean encoders.image.connector.hidden?"),
        ("encoders.image.model=x/y", "keep model (pretrained) or arch (fresh)"),
        ("encoders.smell={}", "encoders.smell: no input has this name or modality"),
        ("backbone.n_layer=x", "backbone.n_layer: 'x' is not allowed by arch gpt2: Field 'n_layer' expected int, got str"),
        ("encoders.image.layer_type=basc", "layer_type=basc is not one of basic,bottleneck"),
        ("backbone.n_layers=3", "unknown key backbone.n_layers; did you mean backbone.n_layer?"),
        ("backbone.side=encoder", "unknown key backbone.side"),  # a GPT-2 has one side
        ("backbone={arch: t5, side: encodr}", "backbone.side: 'encodr' is not allowed; did you mean 'encoder'? allowed: encoder, decoder"),
        ("backbone={arch: bart, latents: 3}", "unknown key backbone.latents"),
        ("inputs.image.sise=3", "unknown key inputs.image.sise; did you mean inputs.image.size?"),
        ("inputs.image=imag", "inputs.image.modality: unknown modality 'imag'; did you mean 'image'?"),
        ("inputs.extra=text", "no task uses the input 'extra'"),
        ("tasks.answer.type=generat", "tasks.answer.type: unknown task 'generat'; did you mean 'generate'?"),
        ("tasks.answer.prompt={qestion}", "{qestion} is not a declared input; did you mean 'question'?"),
        ("tasks.answer.target=3", "tasks.answer.target: 3 is not allowed; allowed: text"),
        ("stages.0.tasks=[anser]", "stages.0.tasks: 'anser' is not allowed; did you mean 'answer'?"),
        ("stages.finetune.tasks=[anser]", "stages.finetune.tasks: 'anser' is not allowed; did you mean 'answer'?"),
        ("stages.0.train=[encoders.image.conector]", "did you mean 'encoders.image.connector'?"),
        ("stages.0.name=finetune", "two stages are called 'finetune'"),
        ("stages.0.data=trian", "stages.0.data: 'trian' is not allowed; did you mean 'train'?"),
        ("train.balance.wieght=0.5", "unknown key train.balance.wieght; did you mean train.balance.weight?"),
        ("train.balance.weight=0", "train.balance.weight: 0 is not allowed"),
        ("train.balance={}", "train.balance: not with task 'answer': a head that writes its text from one input alone"),
        ("train.balance.alpha=-1", "train.balance.alpha: -1 is not allowed"),
        ("encoders.image.connector=q_fromer", "encoders.image.connector.type: unknown connector 'q_fromer'; did you mean 'q_former'?"),
        ("encoders.image.connector={type: q_former, reads: txt}", "encoders.image.connector.reads: 'txt' is not allowed"),
        ("encoders.image.connector={type: perceiver_resampler, tokns: 8}", "did you mean encoders.image.connector.tokens?"),
        ("encoders.image.connector={type: pixel_shuffle, factor: 0}", "encoders.image.connector.factor: 0 is not allowed"),
        ("train.modality_dropout=1.5", "train.modality_dropout"),
        ("train.modality_dropout={imag: 0.5}", "unknown key train.modality_dropout.imag; did you mean train.modality_dropout.image?"),
    ],
)
def test_components_are_checked(recipe_file: Path, override: str, message: str):
    found = problems(recipe_file, override.replace("prompt={q", "prompt=Q: {q"))
    assert any(message in problem for problem in found), found


def test_data_paths_start_from_the_recipe_and_overrides_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "train.jsonl").touch()
    (there / "images.csv").touch()
    monkeypatch.chdir(here)
    text = "data: {train: data/train.jsonl, test: user/name, validation: {file: data/*.jsonl, join: {file: images.csv, key: id}}}\n"
    (there / "r.yaml").write_text("inputs: {a: text}\ntasks: {t: {type: classify, target: b}}\n" + text, encoding="utf-8")
    data = load_recipe(there / "r.yaml").data.named()
    assert data["train"].file == str(there / "data/train.jsonl")
    assert data["validation"].file == str(there / "data/*.jsonl")
    assert data["validation"].join.file == str(there / "images.csv")
    assert data["test"].file == "user/name"
    assert load_recipe("../there/r.yaml", ["data.train=data/train.jsonl"]).data.train.file == str(here / "data/train.jsonl")
    assert load_recipe("../there/r.yaml", ["data.root=data"]).data.root == str(here / "data")


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    for name, message in [
        ("latin.yaml", "not UTF-8 text (byte 9)"),
        ("list.yaml", "a recipe is a mapping with the keys"),
        ("lst.yaml", "no such file; did you mean 'list.yaml'?"),
        (".", "is a folder"),
    ]:
        with pytest.raises(RecipeError) as error:
            load_recipe(tmp_path / name)
        assert message in str(error.value)
    with pytest.raises(RecipeError, match="no recipe file or shipped recipe 'zzzz'"):
        load_recipe("zzzz")


def test_every_field_has_help():
    schema = Recipe.model_json_schema()
    bare = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, value in part["properties"].items()
        if not value.get("description")
    ]
    assert bare == []


def typo(key: str, generator: random.Random) -> str:
    """One slip of the fingers: a letter dropped, swapped or inserted, or a hyphen for an underscore."""
    place = generator.randrange(1, len(key) - 1)
    kinds = ["drop", "swap", "insert"] + (["hyphen"] if "_" in key else [])
    match generator.choice(kinds):
        case "drop":
            return key[:place] + key[place + 1 :]
        case "swap":
            return key[:place] + key[place + 1] + key[place] + key[place + 2 :]
        case "insert":
            return key[:place] + generator.choice("abcdefghijklmnopqrstuvwxyz") + key[place:]
    return key.replace("_", "-")


def test_of_200_typos_at_least_190_get_the_right_key(recipe_file: Path):
    generator = random.Random(0)
    sections: dict[str, list[str]] = {
        "train": [
            "seed",
            "save_every",
            "keep_last",
            "precision",
            "num_workers",
            "device",
            "modality_dropout",
            "weight_decay",
            "schedule",
            "early_stopping",
            "best",
            "evaluate_every",
            "group_rows",
            "bad_samples",
            "max_bad",
            "clip",
        ],
        "stages.1": ["epochs", "steps", "batch_size", "learning_rate", "tasks", "accumulate", "warmup"],
        "data": ["group_by", "validation", "root", "builtin", "splits"],
        "encoders.image": ["connector", "arch", "hidden_sizes", "embedding_size"],
        "backbone": ["tokenizer", "n_layer", "n_head"],
        "fusion": ["type", "every"],
        "tasks.answer": ["prompt", "target", "weight", "generation"],
    }
    keys = [(section, key) for section, names in sections.items() for key in names]
    right = 0
    wrong = []
    for n in range(200):
        section, key = generator.choice(keys)
        if n % 5 == 4:  # right key, wrong section
            section, key = generator.choice(
                [("train", k) for k in ("batch_size", "learning_rate", "epochs", "steps", "accumulate")]
                + [("stages.1", k) for k in ("seed", "precision", "keep_last", "num_workers")]
            )
            written, home = key, {"train": "stages.N", "stages.1": "train"}[section]
            expected = f"{key} belongs to {home}"
        else:
            written = typo(key, generator)
            while written == key:
                written = typo(key, generator)
            expected = f"did you mean {section}.{key}?"
        said = next((p for p in problems(recipe_file, f"{section}.{written}=1") if f"{section}.{written}" in p), "nothing")
        if expected in said:
            right += 1
        else:
            wrong.append((f"{section}.{written}", said))
    assert right >= 190, wrong


def test_splits_of_a_built_in_set_are_names_whatever_stands_beside_the_recipe(tmp_path, monkeypatch):
    """A folder called `views` (a run's, say) must not become the data; a joined table still is a path."""
    monkeypatch.chdir(tmp_path)
    for name in ("views", "views_test"):
        (tmp_path / name).mkdir()
    (tmp_path / "more.csv").write_text("thing,size\n")
    data = load_recipe("views", ["data.join={file: more.csv, key: thing}", "data.splits={unseen: views_test}"]).data
    assert (data.train.file, data.test.file, data.splits["unseen"].file) == ("views", "views_test", "views_test")
    assert data.join.file == str(tmp_path / "more.csv")


SMALL = """\
inputs: {image: image, question: text}
encoders: {image: {model: google/vit-base-patch16-224-in21k, train: none}}
backbone: {model: openai-community/gpt2}
tasks: {answer: {type: generate, prompt: "{question}", target: "{answer}", metrics: [bleu]}}
data: {train: data/train.jsonl}
train: {best: validation answer.bleu}
tiny:
  encoders.image: {arch: resnet, depths: [1]}
  tasks.answer.metrics: [exact_match]
  backbone:
    arch: gpt2
    tokenizer: words
  data: {builtin: quiz}
  train: null
"""


def test_a_recipe_has_a_small_form(tmp_path: Path):
    """`NAME:tiny`: its keys replace what stands there, whole; a null takes a section out; the full form does not know of it."""
    (tmp_path / "my.yaml").write_text(SMALL, encoding="utf-8")
    full, tiny = load_recipe(tmp_path / "my.yaml"), load_recipe(f"{tmp_path}/my.yaml:tiny")
    assert (full.name, tiny.name) == ("my", "my-tiny")
    assert full.encoders["image"].model and full.backbone.model and full.data.train is not None
    assert (tiny.encoders["image"].arch, tiny.encoders["image"].model, tiny.encoders["image"].train) == ("resnet", None, "all")
    assert tiny.tasks["answer"].options == {"prompt": "{question}", "target": "{answer}", "metrics": ["exact_match"]}
    assert tiny.data.builtin == "quiz" and tiny.data.train is None and tiny.train.best is None
    assert load_recipe(f"{tmp_path}/my.yaml:tiny", ["name=mine", "backbone.n_layer=3"]).backbone.options == {"n_layer": 3}
    assert load_recipe(tiny).model_dump() == tiny.model_dump()


def test_mistakes_in_a_small_form_name_its_lines(tmp_path: Path):
    file = tmp_path / "my.yaml"
    file.write_text(SMALL.replace("    tokenizer: words", "    tokenizr: words"), encoding="utf-8")
    assert problems(f"{file}:tiny") == [f"{file}:12: unknown key backbone.tokenizr; did you mean backbone.tokenizer?"]
    file.write_text(SMALL.replace("  tasks.answer.metrics", "  tasks.anser.metrics"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"my\.yaml:9: tiny: no tasks\.anser; did you mean 'answer'\?"):
        load_recipe(f"{file}:tiny")
    with pytest.raises(RecipeError, match="no form 'tny'; its only form is 'tiny'"):
        load_recipe(f"{file}:tny")
    file.write_text(SMALL.split("tiny:")[0], encoding="utf-8")
    with pytest.raises(RecipeError, match="no form 'tiny'; it has no section 'tiny'"):
        load_recipe(f"{file}:tiny")
    file.write_text(SMALL.split("tiny:")[0] + "tiny: small\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"my\.yaml:7: tiny is a mapping"):
        load_recipe(file)
