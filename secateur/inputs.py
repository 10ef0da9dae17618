"""What a job was made of, as far as it is still there."""

from collections.abc import Iterable
from http import HTTPStatus

from secateur.client import Client
from secateur.errors import ProblemError
from secateur.transport import Answer


def datasets_of(client: Client, job: Answer, uses: Iterable[str] = ("dataset", "evaluation")) -> dict[str, Answer]:
    """The datasets that a job's spec names, by id, without those that were deleted since."""
    named = {domain.get(use) for domain in job["spec"]["domains"] for use in uses}
    found: dict[str, Answer] = {}
    for id in sorted(filter(None, named)):
        try:
            found[id] = client.dataset(id)
        except ProblemError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
    return found
