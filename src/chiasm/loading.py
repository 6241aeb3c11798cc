"""The door for checkpoints that others made: nothing in them is run, and every weight is accounted for.

- Weights are read from safetensors files only. A pickle (pytorch_model.bin, .pt, .ckpt, ...) can run code when it is opened, so none is.
- Code that a checkpoint brings along (`auto_map`) is never imported, and nobody is asked whether it should be.
- transformers fills weights that a checkpoint lacks with random ones and goes on; here that is an error which lists them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import cached_file

from chiasm.components import closest, did_you_mean
from chiasm.model import without_bars
from chiasm.recipe_check import arch_keys
from chiasm.types import RecipeError

WEIGHTS = {"output_loading_info": True, "use_safetensors": True, "ignore_mismatched_sizes": True}  # what is amiss is refused here, by name
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
LONGEST_HEADER = 32 << 20  # bytes; the header of a file of 100,000 tensors has 12 million
BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "C64": 8, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
BYTES |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1)
TYPO = 0.9  # a configuration key as near as this to a known one that is not given is that one, misspelt


def from_checkpoint(kind: Any, where: str, part: str, **settings: Any) -> Any:
    """`kind.from_pretrained(where)`; RecipeError in one line where it cannot or may not be read. `part` names the key of the recipe."""
    name = part if part in ("checkpoint", "tokenizer", "image processor") else f"{part}.model"
    check_folder(f"{name} {where}", Path(where), weights="use_safetensors" in settings)
    try:
        with without_bars():
            found = kind.from_pretrained(where, trust_remote_code=False, **settings)
    except (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError, KeyError, TypeError) as error:
        raise RecipeError(f"{name} {where}: {reason_of(error)}") from None
    if isinstance(found, PreTrainedTokenizerBase) and len(found) <= len(set(found.all_special_ids)):
        raise RecipeError(f"{name} {where}: it brings no tokenizer: transformers would read every word as unknown; name another one")
    return found


def reason_of(error: Exception) -> str:
    """Why transformers could not, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "trust_remote_code" in str(error):
        return "it needs code of its own (auto_map in its config.json), which is never run here; take a checkpoint that transformers knows"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(lines) if isinstance(error, StrictDataclassError) else lines[0]


# ---- files


def check_folder(name: str, folder: Path, *, weights: bool) -> None:
    """RecipeError where a local checkpoint is a pickle, a broken safetensors file, or has a configuration key misspelt."""
    if folder.is_file():
        more = pickle_advice(folder) if folder.suffix in PICKLES else "name the folder that it and its config.json are in"
        raise RecipeError(f"{name}: {more}")
    if not folder.is_dir():
        return  # a name on the Hub: transformers says whether there is such a thing
    check_keys(name, folder / "config.json")
    if not weights:
        return
    files = sorted(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        check_index(name, index)
    for file in files:
        check_safetensors(name, file)
    if not files and (pickles := sorted(p for p in folder.iterdir() if p.suffix in PICKLES)):
        raise RecipeError(f"{name}: {pickle_advice(pickles[0])}")


def pickle_advice(file: Path) -> str:
    return (
        f"{file.name} is a pickle file, which can run code when it is opened, so it is not; save it as safetensors where that is safe: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)"
    )


def check_index(name: str, index: Path) -> None:
    """RecipeError where a sharded checkpoint names files outside its folder."""
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise RecipeError(f"{name}: {index.name} is no index of safetensors files") from None
    for shard in sorted(map(str, shards)):
        if Path(shard).name != shard or not shard.endswith(".safetensors") or not (index.parent / shard).is_file():
            raise RecipeError(f"{name}: {index.name} names '{shard}', which is no safetensors file in this folder")


def check_safetensors(name: str, file: Path) -> None:
    """RecipeError where a safetensors file is not exactly its header and the tensors that this names, one after the other."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise RecipeError(f"{name}: {file.name} is cut short or damaged: its header would have {length} of its {size} bytes")
        raw = opened.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=no_twins)
        spans = sorted(span_of(key, entry) for key, entry in header.items() if key != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError(f"{name}: {file.name} has a damaged header: {error or type(error).__name__}") from None
    at = 0
    for start, end, key in spans:
        if start != at:
            raise RecipeError(f"{name}: {file.name}: tensor '{key}' {'overlaps another' if start < at else 'leaves a hole before it'}")
        at = end
    if at != size - 8 - length:
        what = "is cut short" if at > size - 8 - length else "has bytes that no tensor is made of"
        raise RecipeError(f"{name}: {file.name} {what}: its tensors take {at} bytes, and it has {size - 8 - length} for them")


def no_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"'{next(key for key in names if names.count(key) > 1)}' stands there twice")
    return found


def span_of(key: str, entry: Mapping[str, Any]) -> tuple[int, int, str]:
    """(first byte, byte behind the last, name) of a tensor; ValueError where they do not fit its shape and type."""
    (start, end), shape, dtype = entry["data_offsets"], entry["shape"], entry["dtype"]
    if dtype not in BYTES:
        raise ValueError(f"tensor '{key}' is of unknown type {dtype!r}")
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError(f"tensor '{key}' has a shape or place that is not of whole numbers")
    if end - start != math.prod(shape) * BYTES[dtype]:
        raise ValueError(f"tensor '{key}' of shape {shape} and type {dtype} does not take {end - start} bytes")
    return start, end, key


def check_keys(name: str, file: Path) -> None:
    """RecipeError where a config.json, or a part of it, has a key that is another one misspelt; transformers would pass over it."""
    if not file.is_file():
        return
    try:
        config = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{name}: {file.name} is not JSON: {error}") from None
    if isinstance(config, dict):
        misspelt(name, config, ())


def misspelt(name: str, config: Mapping[str, Any], path: tuple[str, ...]) -> None:
    """`check_keys` for one config and those inside it, whose keys it may have too (Gemma 3's has its text model's eos_token_id)."""
    known = keys_of(config)
    spelt = known.union(*(keys_of(value) for value in config.values() if isinstance(value, dict)))
    for key, value in config.items():
        if known and key not in spelt and (near := closest(key, known - set(config), cutoff=TYPO)) is not None:
            raise RecipeError(f"{name}: config.json has no key '{'.'.join((*path, key))}'; did you mean '{near}'?")
        if isinstance(value, dict):
            misspelt(name, value, (*path, key))


def keys_of(config: Mapping[str, Any]) -> set[str]:
    """The keys that a config's architecture knows; none where transformers has no such architecture."""
    kind = config.get("model_type")
    return {key for key in arch_keys(kind) if key[0] != "_"} if isinstance(kind, str) and kind in CONFIG_MAPPING else set()


# ---- weights


def refuse_incomplete(part: str, where: str, info: Mapping[str, Any], allowed: Sequence[str] = (), prefix: str = "") -> list[str]:
    """RecipeError where transformers' loading report of a whole model says that a weight is missing or misshaped.

    allowed: patterns of names, without the `prefix` of the model's body, that may be missing. Returns those that are.
    """
    for key, have, want in sorted(info["mismatched_keys"]):
        refuse_shape(part, where, key, want, have)
    spared = may_be_missing((key.removeprefix(f"{prefix}.") for key in info["missing_keys"]), allowed)
    missing = [key for key in info["missing_keys"] if key.removeprefix(f"{prefix}.") not in spared]
    refuse_missing(part, where, sorted(missing), info["unexpected_keys"])
    return spared


def refuse_missing(part: str, where: str, keys: Sequence[str], unexpected: Iterable[str], hint: str = "") -> None:
    """RecipeError that lists all `keys` which the checkpoint does not have; `unexpected` are those that it has instead."""
    if keys:
        unexpected = sorted(unexpected)
        near = did_you_mean(keys[0], unexpected)
        all_of_them = f"; all: {listed(keys)}" if len(keys) > 1 else ""
        instead = f"; it has instead: {listed(unexpected)}" if unexpected and len(keys) > 1 else ""
        name = part if part == "checkpoint" else f"{part}.model"
        raise RecipeError(
            f"{name} {where}: {len(keys)} weight(s) are not in the checkpoint, first '{keys[0]}'{near}{hint}{all_of_them}{instead}"
        )


def more_layers(missing: Sequence[str], own: Iterable[str], config: Mapping[str, Any]) -> str:
    """The tail of an error where `missing` are whole layers behind those that are there: which key of the config counts them."""
    present = [numbers[0] for key in own if key not in missing and (numbers := NUMBER.findall(f".{key}"))]
    behind = [numbers[0] if (numbers := NUMBER.findall(f".{key}")) else "" for key in missing]
    if not missing or not present or not all(number and number not in present for number in behind):
        return ""
    there, asked = (max(int(number[1:]) for number in numbers) + 1 for numbers in (present, behind))
    key = next((key for key, value in config.items() if value == asked and "layer" in key), "its number of layers")
    return f"; config.json has {key}: {asked}, and the checkpoint {there} layers"


def refuse_surplus(part: str, where: str, own: Iterable[str], unexpected: Iterable[str]) -> None:
    """RecipeError where the checkpoint has more layers than its config says: weights named as the model's are, but for a number.

    Another module that is built alike (CLIP's text half, beside its vision half) has the same numbers, and is no surplus.
    """
    numbers: dict[str, set[str]] = {}  # name with its numbers out -> the numbers
    for key in own:
        numbers.setdefault(unnumbered(key), set()).add(".".join(NUMBER.findall(f".{key}")))
    found: dict[tuple[str, str], dict[str, list[str]]] = {}  # (what stands ahead, name) -> numbers -> keys
    for key in unexpected:
        for start in (0, *(i + 1 for i, sign in enumerate(key) if sign == ".")):
            if "#" in (name := unnumbered(key[start:])) and name in numbers:
                found.setdefault((key[:start], name), {}).setdefault(".".join(NUMBER.findall(f".{key[start:]}")), []).append(key)
                break
    surplus = sorted(key for (_, name), given in found.items() if not numbers[name] & set(given) for keys in given.values() for key in keys)
    if surplus:
        name = part if part == "checkpoint" else f"{part}.model"
        raise RecipeError(f"{name} {where}: its config.json has no place for {len(surplus)} weight(s) of the checkpoint: {listed(surplus)}")


def refuse_shape(part: str, where: str, key: str, want: Sequence[int], have: Sequence[int]) -> None:
    name = part if part == "checkpoint" else f"{part}.model"
    raise RecipeError(f"{name} {where}: weight '{key}' is {tuple(have)} in the checkpoint and {tuple(want)} in the model")


def may_be_missing(keys: Iterable[str], globs: Sequence[str]) -> list[str]:
    """Those of `keys` that a recipe's allow_missing names."""
    return [key for key in keys if any(fnmatchcase(key, glob) for glob in globs)]


def at_random(part: str, where: str, weights: Mapping[str, Any]) -> list[str]:
    """The note about what a recipe allows to be missing from a checkpoint, and is."""
    count = sum(weight.numel() for weight in weights.values())
    return [f"{part}: {count:,} parameters are not in {where} and start at random: {listed(weights)}"] if weights else []


NUMBER = re.compile(r"\.\d+(?=\.)")


def unnumbered(key: str) -> str:
    return NUMBER.sub(".#", f".{key}")


def listed(keys: Iterable[str]) -> str:
    """Names of weights, grouped by module: `h.{0,1}.ln_1 (weight, bias)`."""
    modules: dict[str, dict[str, list[str]]] = {}  # module with its first number out -> weight -> numbers
    for key in keys:
        module, _, leaf = key.rpartition(".")
        number = NUMBER.search(f".{module}.")
        shape = f".{module}."[: number.start()] + ".#" + f".{module}."[number.end() :] if number else f".{module}."
        modules.setdefault(shape.strip("."), {}).setdefault(leaf, []).append(number[0].strip(".") if number else "")
    groups: dict[tuple[str, str], list[str]] = {}
    for module, leaves in modules.items():
        for leaf, numbers in leaves.items():
            inner = numbers[0] if len(numbers) == 1 else "{" + ",".join(numbers) + "}"
            groups.setdefault((module, inner), []).append(leaf)
    named = [(module.replace("#", inner), ", ".join(leaves)) for (module, inner), leaves in groups.items()]
    return "; ".join(f"{module} ({leaves})" if module else leaves for module, leaves in named)


def chat_template(where: str) -> str | None:
    """The chat template that a checkpoint's processor brings, in a file of its own or inside an older processor's settings."""
    for name in ("chat_template.jinja", "chat_template.json", "processor_config.json"):
        if (
            path := cached_file(where, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
        ) is None:
            continue
        text = Path(path).read_text("utf-8")
        found = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
        if isinstance(found, str):
            return found
    return None
