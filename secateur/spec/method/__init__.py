"""Methods: which there are, and what may be asked of each."""

from secateur.spec.method.catalogue import (
    METHODS,
    Admm,
    Alps,
    AnyMethod,
    Auto,
    Copal,
    Magnitude,
    SparseGpt,
    Wanda,
    read_method,
)
from secateur.spec.method.choices import (
    RECENCY,
    Mask,
    MethodName,
    Mode,
    Objective,
    OutputWeighting,
    Perturbation,
    Reading,
    Schedule,
    Scope,
    Target,
    WeightUpdate,
)
from secateur.spec.method.method import ComparisonGroup, DomainMode, Importance, Method
from secateur.spec.method.refinement import Refine, Refinement
from secateur.spec.method.settings import AdmmSettings, AlpsSettings, SparseGptSettings
from secateur.spec.method.solving import Scoring, Selecting, Solving

__all__ = [
    "METHODS",
    "RECENCY",
    "Admm",
    "AdmmSettings",
    "Alps",
    "AlpsSettings",
    "AnyMethod",
    "Auto",
    "ComparisonGroup",
    "Copal",
    "DomainMode",
    "Importance",
    "Magnitude",
    "Mask",
    "Method",
    "MethodName",
    "Mode",
    "Objective",
    "OutputWeighting",
    "Perturbation",
    "Reading",
    "Refine",
    "Refinement",
    "Schedule",
    "Scope",
    "Scoring",
    "Selecting",
    "Solving",
    "SparseGpt",
    "SparseGptSettings",
    "Target",
    "Wanda",
    "WeightUpdate",
    "read_method",
]
