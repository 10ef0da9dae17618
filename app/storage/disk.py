"""How much room the service's own disks have left: those of its scratch folder and of a folder store.

Whoever fills them harms all others: the database of a small installation lies on the same disk.
"""

import os
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from app.settings import Settings

RETRY_SECONDS: Final = 60


class Watermark:
    """The room that must stay free."""

    def __init__(self, settings: Settings) -> None:
        self._fraction = settings.disk_reserve_fraction
        self._bytes = settings.disk_reserve_bytes
        self.places = tuple(_places(settings))

    def room(self) -> int:
        """Bytes that may still be written, on the fullest of the disks; below 0 when the reserve is touched."""
        return min(self._room(place) for place in self.places)

    def missing(self, place: Path) -> int:
        """Bytes of the reserve that are used up on that place's disk; 0 for none."""
        return max(0, -self._room(place))

    def copies(self) -> int:
        """How often an upload lies on the same disk: as it arrives, and in a folder store."""
        devices = [os.stat(_existing(place)).st_dev for place in self.places]
        return max(devices.count(each) for each in devices)

    def _room(self, place: Path) -> int:
        usage = shutil.disk_usage(_existing(place))
        return usage.free - min(int(usage.total * self._fraction), self._bytes)


def _places(settings: Settings) -> list[Path]:
    url = urlsplit(settings.store_url)
    return [settings.work_dir, *([Path(unquote(url.path))] if url.scheme == "file" else [])]


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there already."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
