"""Which pictures of `secateur.figures` there are of a job, and which answers each is drawn from.

Drawing needs the extra `figures`; the list does not.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

from secateur.client import Client
from secateur.errors import SecateurError

Gather = Callable[[Client, str, Sequence[str]], Any]


class Picture(NamedTuple):
    """A function of `secateur.figures`, and the answers that it draws."""

    shows: str
    function: str
    gather: Gather
    of_several: bool = False
    """Whether it draws the jobs of `--with`, too."""


def _results(client: Client, job: str, others: Sequence[str]) -> list[dict[str, Any]]:
    found = [client.job(each) for each in (job, *others)]
    return [{**dict(each["result"] or {}), "name": each["method"]} for each in found]


PICTURES: Final = {
    "r": Picture(
        "The matrix R: every domain's perplexity after every stage, with BWT",
        "perplexity_matrix",
        lambda client, job, _: client.evaluation(job),
    ),
    "sensitivity": Picture(
        "Sensitivity by block and domain",
        "sensitivity_by_block",
        lambda client, job, _: list(client.block_sensitivity(job, lineage=True)),
    ),
    "matrices": Picture(
        "Sensitivity by block and matrix, of the last stage",
        "sensitivity_by_matrix",
        lambda client, job, _: list(client.sensitivity(job)),
    ),
    "depth": Picture(
        "Sparsity, errors and change of the mask by depth",
        "by_depth",
        lambda client, job, _: list(client.matrices(job, lineage=True)),
    ),
    "allocation": Picture(
        "Where the allocation took weights from",
        "allocation",
        lambda client, job, _: list(client.matrices(job)),
    ),
    "lineage": Picture(
        "The tree of jobs that continue one another", "lineage_tree", lambda client, job, _: client.lineage(job)
    ),
    "compare": Picture(
        "Two jobs side by side (--with)",
        "comparison",
        lambda client, job, others: client.compare(job, *others),
        of_several=True,
    ),
    "curve": Picture(
        "Perplexity over sparsity of several jobs (--with)", "perplexity_over_sparsity", _results, of_several=True
    ),
}


def draw(client: Client, name: str, job: str, others: Sequence[str] = ()) -> bytes:
    """A picture as a PNG. others: the jobs beside it, of a picture of several. Raises SecateurError without
    matplotlib."""
    figures, picture = _figures(), PICTURES[name]
    content: bytes = figures.png(getattr(figures, picture.function)(picture.gather(client, job, others)))
    return content


def _figures() -> Any:
    try:
        return import_module("secateur.figures")
    except ModuleNotFoundError as error:
        raise SecateurError(
            f"pictures need matplotlib ({error.name} is missing): pip install 'secateur[figures]'"
        ) from error
