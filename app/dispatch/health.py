"""Whether a dispatcher on this machine works: `python -m app.dispatch.health` ends with 0 or 1."""

import sys
from typing import Final

from app.kit.turns import complaint
from app.settings import get_settings

LOOPS: Final = ("dispatcher", "reaper")


if __name__ == "__main__":
    settings = get_settings()
    sys.exit(complaint(settings.health_dir, LOOPS, max(settings.dispatch_seconds, settings.reaper_seconds)))
