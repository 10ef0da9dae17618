"""Stasis: a new domain that changes next to nothing, because the masks are what they were."""

from typing import Any, Final

LIMIT: Final = 0.999
"""Overlap of a stage's masks with the stage before's above which it is said."""
MESSAGE: Final = "the masks are nearly those of the stage before: this domain has changed next to nothing"


def stasis(stage: int, domain: str, overlap: float | None) -> dict[str, Any] | None:
    """What the warning says, None where none is due. overlap: of the whole stage, None in a first one."""
    if overlap is None or overlap <= LIMIT:
        return None
    return {"code": "stasis", "stage": stage, "domain": domain, "mask_overlap": overlap, "limit": LIMIT}
