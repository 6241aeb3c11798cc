"""`--to hub`: a folder ready to upload: weights, processor, recipe, scores and a model card. Nothing is uploaded.

Whoever has `chiasm` installed loads it by name, with `import chiasm` or with trust_remote_code=True (then the folder's small
`modeling_chiasm.py` imports it; vLLM and `transformers serve` find the classes that way). Where a task compares pictures or sounds with
texts, sentence-transformers encodes both.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForMultimodalLM

from chiasm.export.card import model_card
from chiasm.model import without_bars
from chiasm.model_files import write_manifest
from chiasm.run import model_folder
from chiasm.types import ChiasmError

MODULE = '''"""The classes of this model are those of the Python library chiasm, which must be installed."""

from chiasm.composite import ChiasmModel
from chiasm.config import ChiasmConfig
from chiasm.model import ChiasmForConditionalGeneration
from chiasm.processing import ChiasmProcessor

__all__ = ["ChiasmConfig", "ChiasmForConditionalGeneration", "ChiasmModel", "ChiasmProcessor"]
'''
CLASSES = {
    "AutoConfig": "ChiasmConfig",
    "AutoModel": "ChiasmModel",
    "AutoModelForMultimodalLM": "ChiasmForConditionalGeneration",
    "AutoProcessor": "ChiasmProcessor",
}
ENCODES = {"text": "embed_text", "image": "embed_image", "audio": "embed_audio"}


def write(run: Any, folder: Path, final: Path) -> tuple[list[str], dict[str, Any], list[str]]:
    """Fill the folder, and load it again as a user would."""
    source = model_folder(run.folder)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt"):
            shutil.copy2(file, folder / file.name)
    map_classes(folder)
    recipe = portable(yaml.safe_load((run.folder / "recipe.yaml").read_text(encoding="utf-8")))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for name in ("metrics.json", "evaluation.json"):
        if (run.folder / name).is_file():
            shutil.copy2(run.folder / name, folder / name)
    encodes = write_sentence_transformers(run.model, folder)
    write_manifest(folder)
    (folder / "README.md").write_text(model_card(run, recipe, final.name), encoding="utf-8")
    same_weights(run.model, folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    lines = [
        f"wrote {len(list(folder.iterdir()))} files, {size / 1e6:.1f} MB, ready to upload; nothing was uploaded",
        "README.md is the model card: read it, and choose a license in its first lines",
        *([f"sentence-transformers encodes: {', '.join(encodes)}"] if encodes else []),
    ]
    return (
        lines,
        {"bytes": size, "encodes": encodes},
        [f"hf upload USER/{final.name} {final}   (huggingface-cli upload, where hf is older)"],
    )


def map_classes(folder: Path) -> None:
    """Say in the configs which classes to load, and write the module that has them."""
    (folder / "modeling_chiasm.py").write_text(MODULE, encoding="utf-8")
    for name in ("config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        for part in (content, content.get("text_config") or {}):
            part.pop("_name_or_path", None)  # a folder of this machine, or what a fresh model was never called
        content["auto_map"] = {auto: f"modeling_chiasm.{kind}" for auto, kind in CLASSES.items()}
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def portable(value: Any) -> Any:
    """A recipe without this machine's folders: of an absolute path only the last name stays."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def write_sentence_transformers(model: Any, folder: Path) -> list[str]:
    """The files by which SentenceTransformer(folder).encode() gives the vectors of a contrast task; returns what it encodes."""
    found = {}
    for modality, method in ENCODES.items():
        try:
            model.compares(modality)
        except TypeError:
            continue
        found[modality] = {"method": method, "method_output_name": "pooler_output"}
    if not found:
        return []
    transformer = {
        "transformer_task": "any-to-any",
        "modality_config": found,
        "module_output_name": "sentence_embedding",
        "processing_kwargs": {"text": {"add_special_tokens": False}},
    }
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    files = {
        "modules.json": [module],
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return list(found)


def same_weights(model: Any, folder: Path) -> None:
    """ChiasmError where the folder does not load to the run's own weights."""
    with without_bars():
        again = AutoModelForMultimodalLM.from_pretrained(folder, use_safetensors=True).state_dict()
    wrong = [name for name, value in model.state_dict().items() if not torch.equal(value.cpu(), again[name])]
    if wrong:
        raise ChiasmError(f"{len(wrong)} weights changed on the way, first '{wrong[0]}'")
