"""What can go wrong in a pruning job, and whose fault it is."""


class PruningError(Exception):
    """Anything this library raises on purpose."""


class UserError(PruningError):
    """The user's input is at fault; trying again without changing it cannot help.

    code: stable, for machines. field: JSON pointer into the request, when one field is to blame.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class SpecError(UserError):
    """A field of the request is missing, of the wrong type or out of range."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__("invalid_spec", f"{field or '/'}: {message}", field)


class IllConditioned(PruningError):
    """No damping made a Gram matrix positive definite, or the solution was not finite."""


class Stopped(PruningError):
    """The observer asked the job to stop."""
