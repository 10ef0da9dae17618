"""Parts of answers that several features share."""

from pydantic import BaseModel


class InputError(BaseModel):
    """Why an intake failed; `field` points into the request that asked for it."""

    code: str
    message: str
    field: str | None = None
