"""Which inputs, and which parts of them, an answer rests on: exact Shapley values over inputs, and occlusion of words, areas and sounds.

explain(run, {"image": "cat.png", "question": "what is it ?"}) -> Explanation

target (which number) -> subject (that number, for changed inputs) -> modalities | occlusion -> faithfulness -> Explanation -> page
"""

from chiasm.explain.engine import explain
from chiasm.explain.result import Explanation

__all__ = ["Explanation", "explain"]
