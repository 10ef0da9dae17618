"""What may be chosen of a sparsity, as words."""

from typing import Annotated, Final

from pydantic import Field

from secateur.spec.strict import Choice

SURVEY_TOKENS: Final = 8192
"""At how many calibration tokens of a domain a survey looks unless told: of more it learns little."""
SurveyTokens = Annotated[int, Field(ge=256, le=2**20)]


class Allocation(Choice):
    """How the free matrices share an unstructured target."""

    uniform = "uniform"
    owl = "owl"
    error = "error"


class Curvature(Choice):
    """What a weight is worth to the loss along its input, where rates are shared out by `error`."""

    adapting = "adapting"
    plain = "plain"


class Channels(Choice):
    """In which order an MLP's intermediate channels stand, where a matrix with an n:m pattern reads them."""

    as_stored = "as_stored"
    permuted = "permuted"
