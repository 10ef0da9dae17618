"""The pruning engine: a plain torch library that prunes a Hugging Face folder block by block.

`run(job, observer)` does a whole job in a workspace folder; `plan(job)` says what it would do.
"""

from secateur.spec.job import Documents
from secateur.spec.job import Evaluation as EvaluationSpec
from secateur.spec.request import Format, Text
from worker.engine_format import ENGINE_FORMAT
from worker.pruning.errors import IllConditioned, PruningError, SpecError, Stopped, UserError
from worker.pruning.evaluation.perplexity import perplexities
from worker.pruning.observer import Observer, Silent
from worker.pruning.plan import inspect, plan
from worker.pruning.request import PruningJob
from worker.pruning.runner import run

__all__ = [
    "ENGINE_FORMAT",
    "Documents",
    "EvaluationSpec",
    "Format",
    "IllConditioned",
    "Observer",
    "PruningError",
    "PruningJob",
    "Silent",
    "SpecError",
    "Stopped",
    "Text",
    "UserError",
    "inspect",
    "perplexities",
    "plan",
    "run",
]
