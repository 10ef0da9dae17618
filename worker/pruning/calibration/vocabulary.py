"""Whether a tokenizer and a model belong together: every token needs a row of the embedding and of the head."""

from collections.abc import Sequence

from torch import Tensor

from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.errors import UserError
from worker.pruning.model.graph import Skeleton
from worker.pruning.report.warnings import Caveat


def rows(skeleton: Skeleton) -> int:
    """How many tokens the model knows: the rows of its embedding, or of its head where these are fewer."""
    model = skeleton.model
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(int(end.weight.shape[0]) for end in ends)


def check_ids(windows: Sequence[Tensor], skeleton: Skeleton, tokenizer: Tokenizer, field: str) -> None:
    """Refuse windows, (windows, length) each, of a text with a token that the model has no row for.

    field: the text, a JSON pointer. Raises UserError `unknown_token`.
    """
    highest = max(int(part.max()) for part in windows if part.numel())
    known = rows(skeleton)
    if highest >= known:
        message = (
            f"the text has the token {highest} ({tokenizer.token(highest)!r}), and the model's embedding ends at "
            f"{known - 1}: the tokenizer is another model's, or the embedding was not made larger for it"
        )
        raise UserError("unknown_token", message, field)


def tokens_beyond_rows(skeleton: Skeleton, tokenizer: Tokenizer) -> list[Caveat]:
    """A tokenizer with tokens that the model has no rows for: texts with one of them will be refused."""
    known = rows(skeleton)
    if tokenizer.highest < known:
        return []
    message = "the tokenizer has tokens that the model's embedding has no rows for: a text with one is refused"
    figures = {"highest": tokenizer.highest, "token": tokenizer.token(tokenizer.highest), "rows": known}
    return [Caveat("tokens_beyond_rows", message, figures)]
