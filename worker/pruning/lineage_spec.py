"""What a job goes on from, and what it leaves for one that goes on from it: read from the engine's request."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from worker.pruning.errors import SpecError
from worker.pruning.fields import Fields
from worker.pruning.text_spec import Text


class Precision(StrEnum):
    """Of the Gram matrices in a state file."""

    float16 = "float16"  # of the correlations, beside the exact diagonal
    float32 = "float32"  # as they are


@dataclass(frozen=True)
class OutputSpec:
    state_precision: Precision = Precision.float16
    keep_domain_statistics: bool = False
    """Keep each domain's own Gram beside the sum, and measure every later weight on it."""
    keep_sensitivities: bool = False
    """Write every weight's scores beside each block's files."""

    @classmethod
    def read(cls, fields: Fields | None) -> "OutputSpec":
        if fields is None:
            return cls()
        spec = cls(
            state_precision=fields.choice("state_precision", Precision, cls.state_precision),
            keep_domain_statistics=fields.flag("keep_domain_statistics", cls.keep_domain_statistics),
            keep_sensitivities=fields.flag("keep_sensitivities", cls.keep_sensitivities),
        )
        fields.finish()
        return spec


@dataclass(frozen=True)
class BaseEvaluation:
    """An earlier domain's test text."""

    domain: str
    text: Text
    field: str

    @classmethod
    def read(cls, fields: Fields) -> "BaseEvaluation":
        evaluation = fields.required("evaluation")
        found = cls(fields.text("domain"), Text.read(evaluation), evaluation.pointer)
        evaluation.finish()
        fields.finish()
        return found


@dataclass(frozen=True)
class Base:
    """The finished job before this one in a lineage.

    folder: relative to the workspace; its artifact's `model/` (the blocks' shards at least) and `state/`. domains:
    of all the lineage's stages so far, in their order. evaluations: of those that have a column in R.
    """

    folder: str
    domains: tuple[str, ...]
    evaluations: tuple[BaseEvaluation, ...] = ()

    @property
    def stages(self) -> int:
        return len(self.domains)

    @classmethod
    def read(cls, fields: Fields) -> "Base":
        stages = fields.integer("stages", low=1)
        base = cls(
            folder=_folder(fields),
            domains=_names(fields),
            evaluations=tuple(BaseEvaluation.read(item) for item in fields.children("evaluations", optional=True)),
        )
        fields.finish()
        if stages != base.stages:
            raise SpecError(fields.at("domains"), f"must name one domain for each of the {stages} stages")
        columns = [each.domain for each in base.evaluations]
        for number, domain in enumerate(columns):
            if domain not in base.domains or columns.count(domain) > 1:
                message = "must be one of the base's domains, each at most once"
                raise SpecError(f"{fields.at('evaluations')}/{number}/domain", message)
        return base


def _folder(fields: Fields) -> str:
    folder = PurePosixPath(fields.text("folder", "base"))
    if folder.is_absolute() or ".." in folder.parts or not folder.parts:
        raise SpecError(fields.at("folder"), "must be a path inside the workspace")
    return str(folder)


def _names(fields: Fields) -> tuple[str, ...]:
    names = fields.raw("domains")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise SpecError(fields.at("domains"), "must be a list of names")
    if len(set(names)) < len(names):
        raise SpecError(fields.at("domains"), "must have different names")
    return tuple(names)
