"""Chiasm composes pretrained encoders and a language model into one multimodal model, trains it, and proves that it uses its inputs.

    import chiasm

    run = chiasm.train("recipe.yaml")
    run = chiasm.load("runs/demo")
    run.answer(image="picture.png", question="what colour is the cat ?")
    run.evaluate("test")
    chiasm.compare("recipe.yaml", fusions="early,late", seeds=3)
    chiasm.convert("nlpconnect/vit-gpt2-image-captioning", "runs/captions")

Importing it also registers the model with transformers, so that `AutoModelForMultimodalLM.from_pretrained("runs/demo/model")` works.
"""

from chiasm.audit.engine import audit
from chiasm.audit.result import Audit
from chiasm.check import Check, check
from chiasm.compare.engine import Compared, compare, replay
from chiasm.compare.known_run import known_answers
from chiasm.convert.engine import convert
from chiasm.data.draft import infer_recipe as init
from chiasm.explain.engine import explain
from chiasm.explain.result import Explanation
from chiasm.export.engine import Exported, export
from chiasm.model import ChiasmForConditionalGeneration
from chiasm.prediction.engine import Predicted, predict_file
from chiasm.processing import ChiasmProcessor
from chiasm.recipe import Recipe, load_recipe
from chiasm.retrieval.build import index
from chiasm.retrieval.build import update as update_index
from chiasm.retrieval.classify import classify
from chiasm.retrieval.embedding import embed
from chiasm.retrieval.index import Hit, Index
from chiasm.run import Run, load, train
from chiasm.types import BadInput, ChiasmError, NonFiniteError, RecipeError

__version__ = "0.1.0"
__all__ = [
    "Audit",
    "BadInput",
    "Check",
    "ChiasmError",
    "ChiasmForConditionalGeneration",
    "ChiasmProcessor",
    "Compared",
    "Explanation",
    "Exported",
    "Hit",
    "Index",
    "NonFiniteError",
    "Predicted",
    "Recipe",
    "RecipeError",
    "Run",
    "audit",
    "check",
    "classify",
    "compare",
    "convert",
    "embed",
    "explain",
    "export",
    "index",
    "init",
    "known_answers",
    "load",
    "load_recipe",
    "predict_file",
    "replay",
    "train",
    "update_index",
]
