"""How much is removed, where and in which pattern."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from secateur.spec.sparsity.choices import SURVEY_TOKENS, Allocation, Channels, Curvature, SurveyTokens
from secateur.spec.sparsity.further import Further, FurtherStatistics
from secateur.spec.sparsity.override import Override
from secateur.spec.sparsity.pattern import Pattern, PatternText, agree
from secateur.spec.strict import ABSENT, Refusal, Strict, at_field, refuse


def usual_allocation(pattern: Pattern) -> Allocation:
    """What a job that names none gets: n:m fixes every rate, so that there is nothing to share out."""
    return Allocation.error if pattern.sparsity is None else Allocation.uniform


class Sparsity(Strict):
    """How much is removed, and in which pattern."""

    pattern: PatternText = Field(
        default=Pattern(),
        description="`unstructured`, or n:m: n of every m consecutive inputs are KEPT, as in 2:4.",
        examples=["unstructured", "2:4"],
        json_schema_extra={"default": "unstructured"},
    )
    target: float = Field(
        default=None,
        gt=0,
        lt=1,
        validate_default=True,
        description="Share of all prunable weights (that no override skips) to remove, met to the weight. "
        "An n:m pattern implies it, and with overrides of such a job the real total is what they come to.",
    )
    allocation: Allocation = Field(
        default=None,
        validate_default=True,
        description="How the matrices share the target. `uniform`: all at one rate; `owl`: by block, less where "
        "there are more outliers; `error`: by matrix and row, where the loss should rise least, measured by one "
        "pass forward and one backward over the dense model. Default: `error` with the pattern `unstructured`; "
        "n:m fixes every rate and takes none.",
    )
    curvature: Curvature = Field(
        default=None,
        validate_default=True,
        description="What a weight's removal costs along its input, for the allocation `error`. `adapting`: where "
        "weights are solved for anew, what is left once the others of its row have made up for it; `plain`: what "
        "it costs at once, as for weights that stay as they are. Default: as the job's `effort` has it.",
    )
    survey_tokens: SurveyTokens = Field(
        default=None,
        validate_default=True,
        description="At how many of each domain's calibration tokens a job looks before it prunes: in the passes "
        "over the dense model of the allocations `owl` and `error` and of weighed outputs, and in the search for "
        "an order of channels. Whole windows, the first ones that are solved on, one at the least. Default: as "
        "the job's `effort` has it: 8,192, and 2,048 under `fast` where `error` shares out what solved weights "
        "lose.",
    )
    channels: Channels = Field(
        default=None,
        validate_default=True,
        description="The order of an MLP's intermediate channels, which decides who shares a group of an n:m "
        "pattern. `permuted`: one in which the pattern takes less, found by the lineage's first stage; outputs of "
        "the matrices before move with inputs of the one behind, so that the dense model's function stays what it "
        "is. Default: as the job's `effort` has it.",
    )
    keep_zeros: bool = Field(
        default=False,
        description="Every zero of the model as it came stays zero, so that a 2:4 model stays 2:4. They count "
        "towards the target; a matrix with more of them than its share keeps them all.",
    )
    overrides: Annotated[tuple[Override, ...], Field(strict=False)] = Field(
        default=(), max_length=100, description="In order; all that match count."
    )
    further: Annotated[tuple[Further, ...], Field(strict=False)] = Field(
        default=(),
        max_length=16,
        description="More targets, or n:m patterns: each makes a model of its own, from the same survey and sums "
        "over domains, and a row of R. A number needs the pattern `unstructured`, an n:m pattern no overrides.",
        examples=[[0.6, 0.7, "2:4"]],
    )
    further_statistics: FurtherStatistics = Field(
        default=None,
        validate_default=True,
        description="From what the further targets are solved. `own`: the last domain's text is measured behind "
        "what each target has pruned itself, so that over one domain its model is that of a job of its own. "
        "`shared`: the sums that the last domain's stage has left; no text is passed again, and models are worse "
        "the further their target is from the job's. Default: `own`; with `effort` null `shared`.",
    )

    @field_validator("target", mode="before", json_schema_input_type=float | None)
    @classmethod
    def _implied_target(cls, value: Any, info: ValidationInfo) -> Any:
        pattern = info.data.get("pattern")
        if value is not None:
            return value
        if pattern is None:  # it was refused, and nothing more can be said
            return 0.5
        if pattern.sparsity is None:
            raise at_field("is required with the pattern unstructured")
        return pattern.sparsity

    @field_validator("target")
    @classmethod
    def _as_the_pattern(cls, value: float, info: ValidationInfo) -> float:
        pattern = info.data.get("pattern", Pattern())
        agree(value, pattern)
        return value if pattern.sparsity is None else pattern.sparsity

    @field_validator("allocation", mode="before", json_schema_input_type=Allocation | None)
    @classmethod
    def _usual_allocation(cls, value: Any, info: ValidationInfo) -> Any:
        return usual_allocation(info.data.get("pattern", Pattern())) if value is None else value

    @field_validator("allocation")
    @classmethod
    def _fixed_rates(cls, value: Allocation, info: ValidationInfo) -> Allocation:
        pattern = info.data.get("pattern", Pattern())
        if pattern.sparsity is not None and value is not Allocation.uniform:
            raise ValueError(f"the pattern {pattern} fixes every rate; leave allocation out")
        return value

    @field_validator("curvature", mode="before", json_schema_input_type=Curvature | None)
    @classmethod
    def _own_curvature(cls, value: Any) -> Any:
        return Curvature.adapting if value is None else value

    @field_validator("curvature")
    @classmethod
    def _only_of_a_survey(cls, value: Curvature, info: ValidationInfo) -> Curvature:
        if value is Curvature.plain and info.data.get("allocation", Allocation.error) is not Allocation.error:
            raise ValueError("has no effect without the allocation error; leave it out")
        return value

    @field_validator("survey_tokens", mode="before", json_schema_input_type=SurveyTokens | None)
    @classmethod
    def _usual_survey(cls, value: Any) -> Any:
        return SURVEY_TOKENS if value is None else value

    @field_validator("channels", mode="before", json_schema_input_type=Channels | None)
    @classmethod
    def _own_channels(cls, value: Any) -> Any:
        return Channels.as_stored if value is None else value

    @model_validator(mode="after")
    def _channels_of_groups(self) -> "Sparsity":
        patterns = (self.pattern, *(each.pattern for each in self.overrides if each.pattern is not None))
        if self.channels is Channels.permuted and all(each.sparsity is None for each in patterns):
            message = "has no effect without an n:m pattern; leave it out"
            refuse(self, [Refusal(("channels",), message, self.channels)])
        return self

    @field_validator("further_statistics", mode="before", json_schema_input_type=FurtherStatistics | None)
    @classmethod
    def _shared_statistics(cls, value: Any) -> Any:
        return FurtherStatistics.shared if value is None else value

    @model_validator(mode="after")
    def _statistics_of_others(self) -> "Sparsity":
        if self.further_statistics is FurtherStatistics.own and not self.further:
            message = "has no effect without further targets; leave it out"
            refuse(self, [Refusal(("further_statistics",), message, self.further_statistics)])
        return self

    @model_validator(mode="after")
    def _no_open_rate(self) -> "Sparsity":
        refuse(self, self._open_rates() if self.pattern.sparsity is not None else ())
        return self

    @model_validator(mode="after")
    def _other_targets(self) -> "Sparsity":
        refuse(self, self._wrong_further())
        return self

    def _wrong_further(self) -> Iterator[Refusal]:
        own = {self.target if self.pattern == Pattern() else self.pattern}
        for number, further in enumerate(self.further):
            message = None
            if further in own:
                message = "is asked for already; leave it out"
            elif isinstance(further, float) and self.pattern != Pattern():
                message = f"needs the pattern unstructured, and the pattern {self.pattern} fixes every rate"
            elif isinstance(further, Pattern) and self.overrides:
                message = (
                    f"fixes every rate, beside which overrides mean something else; ask for {further} by itself"
                )
            own.add(further)
            if message is not None:
                yield Refusal(("further", number), message, further)

    def at(self, further: "float | Pattern") -> "Sparsity":
        """The sparsity of one of the further targets by itself."""
        if isinstance(further, Pattern):
            found = Sparsity(pattern=further, keep_zeros=self.keep_zeros, channels=self.channels)
            return found.model_copy(update={"further_statistics": self.further_statistics})
        return self.model_copy(update={"target": further, "further": ()})

    def _open_rates(self) -> Iterator[Refusal]:
        """Beside an n:m pattern no budget is shared out, so every rate must be said."""
        for number, override in enumerate(self.overrides):
            place = ("overrides", number, "target")
            if override.target is not None and override.pattern is None:
                message = (
                    f'cannot be met beside the pattern {self.pattern}, which implies every target; add "pattern": '
                    '"unstructured" or choose n:m'
                )
                yield Refusal(place, message, override.target)
            elif override.target is None and override.pattern == Pattern():
                message = f"is required, because beside the pattern {self.pattern} there is no budget to share"
                yield Refusal(place, message, kind=ABSENT)
