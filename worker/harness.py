"""Whether the lm-evaluation-harness is installed here: the extra `tasks`. Nothing of it is imported."""

from importlib.metadata import PackageNotFoundError, version


def has_harness() -> bool:
    """Whether it is."""
    return harness_version() is not None


def harness_version() -> str | None:
    """None where it is not."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return None
