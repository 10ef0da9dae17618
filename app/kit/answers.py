"""What a call's transaction must hold beside the change: hooks that see the answer before the commit.

The endpoint's transaction (`UnitOfWork`) is committed after the endpoint's answer is made and before it is sent.
In between, `StrictRoute` lets each hook add its rows; when the call is refused or fails, none of them stays.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

Hook = Callable[[Response], None]


class Answered(Exception):
    """The call has an answer already; its endpoint is not asked."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def before_commit(request: Request, hook: Hook) -> None:
    """Have `hook` called once with the answer, in a thread, if there is one below 400."""
    hooks: list[Hook] = request.scope.setdefault("state", {}).setdefault("before_commit", [])
    hooks.append(hook)


def has_hooks(request: Request) -> bool:
    """Whether any hook still waits."""
    return bool(request.scope.get("state", {}).get("before_commit"))


def run_hooks(request: Request, response: Response) -> None:
    """Call the hooks that wait. An endpoint that commits itself does so first; else its route does."""
    hooks: list[Hook] = request.scope.get("state", {}).get("before_commit", [])
    while hooks:
        hook = hooks.pop(0)
        if response.status_code < 400:
            hook(response)


def drop_hooks(request: Request) -> None:
    """Nothing was done: the answer is an earlier call's."""
    request.scope.get("state", {}).get("before_commit", []).clear()
