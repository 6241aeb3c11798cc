"""Compares a recipe with the components it names, and checks that inputs, encoders, tasks, stages and parts refer to each other rightly.

Nothing is built, downloaded or opened. All problems are collected, each one line with the recipe's line and the nearest right thing.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from chiasm import components
from chiasm.recipe import OpenSpec, Recipe, TaskSpec
from chiasm.recipe_errors import RecipeProblems, dotted, explain, not_allowed, unknown_key
from chiasm.recipe_schema import keys_of
from chiasm.recipe_yaml import Path
from chiasm.types import RecipeError


def check_components(recipe: Recipe) -> None:
    """Raise RecipeProblems with everything that is wrong with the recipe's components; nothing else happens."""
    check = _Check(recipe)
    check.inputs()
    check.encoders()
    check.backbone()
    check.options(("fusion",), recipe.fusion, check.component("fusion", recipe.fusion.type, ("fusion", "type")))
    check.tasks()
    check.stages()
    check.modality_dropout()
    check.balance()
    if check.problems:
        raise RecipeProblems(check.problems)


def part_names(recipe: Recipe) -> list[str]:
    """The names that `stages.N.train` may use: a name covers what is below it."""
    names = ["encoders", "backbone", *(["backbone.vision"] if recipe.backbone.model else []), "fusion", "tasks"]
    for key in dict.fromkeys([*recipe.encoders, *(name for name, spec in recipe.inputs.items() if spec.modality != "text")]):
        names += [f"encoders.{key}", f"encoders.{key}.connector"]
    return names + [f"tasks.{name}" for name in recipe.tasks]


def arch_keys(arch: str) -> list[str]:
    """The configuration keys of a transformers architecture; RecipeError names the nearest where there is none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if arch not in CONFIG_MAPPING:
        raise RecipeError(f"unknown arch '{arch}'{components.did_you_mean(arch, CONFIG_MAPPING.keys())}")
    config = CONFIG_MAPPING[arch]
    names = [name for name, p in inspect.signature(config.__init__).parameters.items() if p.kind != p.VAR_KEYWORD and name != "self"]
    return sorted({*names, *config.attribute_map})


def arch_kind(arch: str | None) -> str | None:
    """The kind of backbone that a fresh transformers architecture is; None where there is no such architecture."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return backbone_kind(CONFIG_MAPPING[arch]) if arch is not None and arch in CONFIG_MAPPING else None


def backbone_kind(config: Any) -> str:
    """The kind of backbone that a transformers config, or its class, describes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.is_encoder_decoder:
        return "encoder_decoder"
    if config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and {"text_config", "vision_config"} <= {*config.sub_configs}:
        return "vision_language"
    return "bidirectional" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "causal"


@dataclass
class _Check:
    recipe: Recipe
    problems: list[str] = field(default_factory=list)

    def add(self, path: Path, text: str) -> None:
        """Note a problem with the place of `path` in front."""
        self.problems.append(self.recipe.document.line(path, text))

    def component(self, kind: str, name: str, path: Path) -> Any:
        """The component's class, or None with a problem noted."""
        try:
            return components.find(kind, name)
        except RecipeError as error:
            self.add(path, f"{dotted(path)}: {error}")
            return None

    def options(self, path: Path, spec: OpenSpec, component: Any, more: Iterable[str] = ()) -> None:
        """Compare a section's own keys with the component's Options; `more` are further keys that are right there, e.g. of an `arch`."""
        if component is not None:
            self.keys(path, spec, [*component.Options.model_fields, *more])
            self.values(path, spec, component)

    def keys(self, path: Path, spec: OpenSpec, allowed: Iterable[str]) -> None:
        """Note the keys that neither the section nor its component knows."""
        known = {*keys_of(type(spec)), *allowed}
        for key in spec.options:
            if key not in known:
                self.add((*path, key), unknown_key((*path, key), known, Recipe))

    def values(self, path: Path, spec: OpenSpec, component: Any) -> Any:
        """The component's Options, or None with what is wrong with them noted."""
        own = {key: value for key, value in spec.options.items() if key in component.Options.model_fields}
        try:
            return component.Options.model_validate(own)
        except ValidationError as error:
            self.problems += explain(error, self.recipe.document, Recipe, at=path)
            return None

    def inputs(self) -> None:
        """Every modality exists and knows its options."""
        for name, spec in self.recipe.inputs.items():
            path: Path = ("inputs", name)
            self.options(path, spec, self.component("modality", spec.modality, (*path, "modality")))
            if name == "text" and spec.modality != "text":
                self.add(path, f"inputs.{name}: only prompt text may be called so; write e.g. sentence: {{modality: text, column: {name}}}")

    def encoders(self) -> None:
        """Every encoder is for an input, exists, and is told a model or an architecture where it needs one."""
        modalities = {name: spec.modality for name, spec in self.recipe.inputs.items()}
        for key, spec in self.recipe.encoders.items():
            path: Path = ("encoders", key)
            if key not in modalities and key not in modalities.values():
                near = components.did_you_mean(key, [*modalities, *modalities.values()])
                self.add(path, f"encoders.{key}: no input has this name or modality{near}")
                continue
            encoder = self.component("encoder", spec.type or modalities.get(key, key), (*path, "type"))
            self.options(path, spec, encoder, self.architecture(path, spec.model, spec.arch))
            self.network_values(path, spec, spec.arch, encoder)
            self.options(
                (*path, "connector"), spec.connector, self.component("connector", spec.connector.type, (*path, "connector", "type"))
            )
            if encoder is not None and getattr(encoder, "needs_network", False) and not (spec.model or spec.arch):
                self.add(
                    path, f"encoders.{key} names no network; give `model: NAME` (pretrained) or `arch: NAME` (fresh), e.g. arch: resnet"
                )

    def backbone(self) -> None:
        """The backbone's kind and options; where the kind is found out from the model later, the options of every kind are known."""
        spec, path = self.recipe.backbone, ("backbone",)
        fresh = not (spec.model or spec.arch)
        known_kind = spec.kind or ("latent" if fresh else arch_kind(spec.arch))
        kinds = [known_kind] if known_kind else components.names("backbone")
        arch = spec.arch or ("bert" if fresh else None)  # latents are mixed by a small BERT
        known = self.architecture(path, spec.model, arch)
        for kind in kinds:
            component = self.component("backbone", kind, (*path, "kind"))
            known |= dict.fromkeys(component.Options.model_fields if component else ())
        self.keys(path, spec, known)
        self.network_values(path, spec, arch, component)
        if len(kinds) == 1 and component is not None:
            self.values(path, spec, component)

    def architecture(self, path: Path, model: str | None, arch: str | None) -> dict[str, None]:
        """The keys that `arch` allows; notes an unknown architecture and one named beside a pretrained model."""
        if model and arch:
            self.add((*path, "arch"), f"{dotted(path)} has both model: {model} and arch: {arch}; keep model (pretrained) or arch (fresh)")
        if not arch:
            return {}
        try:
            return dict.fromkeys(arch_keys(arch))
        except RecipeError as error:
            self.add((*path, "arch"), f"{dotted(path)}.arch: {error}")
            return {}

    def network_values(self, path: Path, spec: OpenSpec, arch: str | None, component: Any) -> None:
        """Whether the architecture's configuration takes the values of its keys."""
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if arch is None or arch not in CONFIG_MAPPING:
            return
        own = component.Options.model_fields if component is not None else {}
        theirs = set(arch_keys(arch)) - set(own)
        with contextlib.suppress(StrictDataclassError, TypeError, ValueError):  # else they are tried one by one, to name the wrong one
            AutoConfig.for_model(arch, **{key: value for key, value in spec.options.items() if key in theirs})
            return  # keys such as a width and its number of heads may be right only together
        for key in [key for key in spec.options if key in theirs]:
            value = spec.options[key]
            try:
                AutoConfig.for_model(arch, **{key: value})
            except (StrictDataclassError, TypeError, ValueError) as error:
                reason = str(error).splitlines()[-1].partition("Error: ")[2].partition(" Errors:")[0] or str(error).splitlines()[0]
                self.add((*path, key), f"{dotted((*path, key))}: {value!r} is not allowed by arch {arch}: {reason}")

    def tasks(self) -> None:
        """Every task exists, its prompt names declared inputs, and every input is used by a task."""
        declared = {name: spec.modality for name, spec in self.recipe.inputs.items()}
        used: set[str] = set()
        tasks: dict[str, Any] = {}
        for name, spec in self.recipe.tasks.items():
            path: Path = ("tasks", name)
            kind = self.component("task", spec.type, (*path, "type"))
            options = None if kind is None else self.task_options(path, spec, kind)
            if options is None:
                used |= set(declared)  # nothing can be said before the task is right
                continue
            try:
                tasks[name] = task = kind(name, options, declared)
                used |= {*task.reads, *task.targets}
                self.task_sees_its_target(path, task)
            except RecipeError as error:
                used |= set(declared)
                self.add(tuple(str(error).split(":")[0].split(".")), str(error))
        for task in tasks.values() if len(tasks) == len(self.recipe.tasks) else ():
            try:
                task.meet(tasks)
            except RecipeError as error:
                self.add(tuple(str(error).split(":")[0].split(".")), str(error))
        for name in self.recipe.inputs:
            if name not in used:
                self.add(("inputs", name), f"no task uses the input '{name}'; name it in a prompt as {{{name}}}, or remove it from inputs")

    def task_sees_its_target(self, path: Path, task: Any) -> None:
        """Note a text that a task both writes and is given as a stream."""
        for read in task.reads if task.view == "fused" else ():
            spec = self.recipe.inputs[read]
            if spec.modality == "tokens" and spec.options.get("column", read) in task.targets:
                self.add(path, f"{dotted(path)}: its target is the text '{read}', which its encoder already gives it")

    def task_options(self, path: Path, spec: TaskSpec, kind: Any) -> Any:
        """A task's Options, or None with problems noted."""
        self.keys(path, spec, kind.Options.model_fields)
        return self.values(path, spec, kind)

    def stages(self) -> None:
        """Stages have different names, and the tasks, parts and splits they name exist."""
        names = [stage.name for stage in self.recipe.stages]
        parts, splits = part_names(self.recipe), self.recipe.data.named()
        for i, stage in enumerate(self.recipe.stages):
            path: Path = ("stages", i)
            if stage.name in names[:i]:
                self.add((*path, "name"), f"stages.{i}.name: two stages are called '{stage.name}'; give each its own name")
            for task in stage.tasks or ():
                if task not in self.recipe.tasks:
                    self.add((*path, "tasks"), not_allowed((*path, "tasks"), task, self.recipe.tasks))
            for part in stage.train or ():
                if part not in parts:
                    self.add((*path, "train"), not_allowed((*path, "train"), part, parts))
            if stage.data != "train" and splits and self.recipe.data.builtin is None and stage.data not in splits:
                self.add((*path, "data"), not_allowed((*path, "data"), stage.data, splits))

    def modality_dropout(self) -> None:
        """`train.modality_dropout: {input: p}` names inputs."""
        rates = self.recipe.train.modality_dropout
        for name in rates if isinstance(rates, dict) else ():
            if name not in self.recipe.inputs:
                path: Path = ("train", "modality_dropout", name)
                self.add(path, unknown_key(path, self.recipe.inputs, Recipe))

    def balance(self) -> None:
        """`train.balance` has a task whose decision an input can make alone, and none whose it cannot."""
        if self.recipe.train.balance is None:
            return
        kinds = {}
        for name, spec in self.recipe.tasks.items():
            with contextlib.suppress(RecipeError):  # noted by `tasks`
                kinds[name] = components.find("task", spec.type)
        for name, kind in kinds.items():
            if kind.view != "fused" or kind.decides:
                continue
            why = "a head that writes its text from one input alone would be a language model of its own"
            if not kind.writes:
                why = "one input alone is not enough for its head to decide"
            self.add(("train", "balance"), f"train.balance: not with task '{name}': {why}; balance is for classify and regress tasks")
        if not any(kind.decides for kind in kinds.values()):
            self.add(("train", "balance"), "train.balance: there is no classify or regress task, so no head for an input alone; remove it")
        if self.recipe.train.balance.noise and not self.recipe.train.balance.modulate:
            self.add(("train", "balance", "noise"), "train.balance.noise: it is half of OGM-GE; write modulate: true too")
