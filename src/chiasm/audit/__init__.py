"""Does a model use its inputs? A run, a vision-language model of transformers, or an endpoint, asked the same questions with each input as
it is, shuffled and missing.

    rows (of the data) -> local | endpoint (answers) -> engine (conditions) -> evaluation's scores and intervals -> Audit -> page
"""

from chiasm.audit.engine import audit
from chiasm.audit.result import Audit

__all__ = ["Audit", "audit"]
