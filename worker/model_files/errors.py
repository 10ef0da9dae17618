"""The one error of an intake that is the user's to mend."""

from typing import Any


class IntakeError(Exception):
    """The input is at fault and trying again would not help.

    The message goes to the API: it names the fix, and no path, token or address of ours. It may quote the input;
    what PostgreSQL or a terminal could not bear of that is replaced.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in message)
        self.field = field

    def as_json(self) -> dict[str, Any]:
        """What is stored in the `error` of a model or dataset."""
        return {"code": self.code, "message": self.message, "field": self.field}


def no_room(size: int) -> IntakeError:
    """The refusal of work that needs so many bytes of disk, more than there are."""
    return IntakeError(
        "too_large",
        f"This needs {size / 1e9:.1f} GB of disk, more than the service has left. Use a smaller one, or ask its "
        "operator for more room.",
    )
