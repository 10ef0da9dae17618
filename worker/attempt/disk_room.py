"""A worker whose disk is nearly full claims nothing: an attempt would fail there, and cost the job one."""

import logging
import math
import threading
from typing import Final

from app.settings import Settings
from app.storage.disk import Watermark
from worker.attempt.cache import shrink
from worker.attempt.patience import Patience

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 15.0


def has_room(settings: Settings) -> bool:
    """Whether the disk's reserve is untouched, if need be once the cache of models and texts has given way."""
    watermark = Watermark(settings)
    if watermark.room() >= 0:
        return True
    if missing := watermark.missing(settings.work_dir):  # another disk gains nothing by it
        shrink(settings.work_dir, missing)
    return watermark.room() >= 0


def wait_for_room(settings: Settings, stopping: threading.Event, seconds: float = math.inf) -> None:
    """Return once there is room, or the worker must stop. Raises OutOfPatience after so many seconds."""
    if has_room(settings):
        return
    said = "the disk's reserve (`disk_reserve_bytes`) is touched"
    log.error("%s: nothing is claimed until there is room", said)
    patience = Patience(seconds)
    while not stopping.wait(patience.next(LOOK_SECONDS, said)):
        if has_room(settings):
            log.warning("the disk has room again")
            return
