"""Whether a tokenizer and a model belong together: every token needs a row of the embedding and of the head."""

from collections.abc import Sequence

from torch import Tensor

from secateur.spec.records.history import JobWarning
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.errors import UserError
from worker.pruning.model.graph import ModelGraph


def rows(graph: ModelGraph) -> int:
    """How many tokens the model knows: the rows of its embedding, or of its head where these are fewer."""
    model = graph.model
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(int(end.weight.shape[0]) for end in ends)


def check_ids(windows: Sequence[Tensor], graph: ModelGraph, tokenizer: Tokenizer, field: str) -> None:
    """Refuse windows, (windows, length) each, of a text with a token that the model has no row for.

    field: the text, a JSON pointer. Raises UserError `unknown_token`.
    """
    highest = max(int(part.max()) for part in windows if part.numel())
    _check(highest, "the text has", graph, tokenizer, field)


def _check(highest: int, who: str, graph: ModelGraph, tokenizer: Tokenizer, field: str) -> None:
    known = rows(graph)
    if highest >= known:
        message = (
            f"{who} the token {highest} ({tokenizer.token(highest)!r}), and the model's embedding ends at "
            f"{known - 1}: the tokenizer is another model's, or the embedding was not made larger for it"
        )
        raise UserError("unknown_token", message, field)


def tokens_beyond_rows(graph: ModelGraph, tokenizer: Tokenizer) -> list[JobWarning]:
    """A tokenizer with tokens that the model has no rows for: texts with one of them will be refused.

    Raises UserError `unknown_token` where its prefix has one, and with it every text.
    """
    _check(max(tokenizer.prefix, default=-1), "the tokenizer puts before every text", graph, tokenizer, "/model")
    known = rows(graph)
    if tokenizer.highest < known:
        return []
    message = "the tokenizer has tokens that the model's embedding has no rows for: a text with one is refused"
    figures = {"highest": tokenizer.highest, "token": tokenizer.token(tokenizer.highest), "rows": known}
    return [JobWarning(code="tokens_beyond_rows", message=message, data=figures)]
