"""How much may still be written."""

from collections import namedtuple
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage import disk
from app.storage.disk import Watermark

Usage = namedtuple("Usage", "total used free")
GIB = 2**30


def of_size(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(total, total - free, free))


@pytest.mark.parametrize(
    ("total", "free", "fraction", "reserve", "room"),
    [
        (100 * GIB, 50 * GIB, 0.05, 10 * GIB, 45 * GIB),
        (1000 * GIB, 50 * GIB, 0.05, 10 * GIB, 40 * GIB),
        (100 * GIB, 4 * GIB, 0.05, 10 * GIB, -1 * GIB),
        (100 * GIB, 4 * GIB, 0.0, 10 * GIB, 4 * GIB),
        (100 * GIB, 4 * GIB, 0.05, 0, 4 * GIB),
    ],
)
def test_the_smaller_reserve_counts(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    total: int,
    free: int,
    fraction: float,
    reserve: int,
    room: int,
) -> None:
    of_size(monkeypatch, total, free)
    changed = {"disk_reserve_fraction": fraction, "disk_reserve_bytes": reserve}
    assert Watermark(settings.model_copy(update=changed)).room() == room


def test_a_folder_that_is_not_there_yet_is_measured_above(settings: Settings, tmp_path: Path) -> None:
    changed = {"work_dir": tmp_path / "a" / "b", "store_url": (tmp_path / "c" / "d").as_uri()}
    watermark = Watermark(settings.model_copy(update=changed))
    assert watermark.room() > 0
    assert watermark.copies() == 2


def test_a_folder_store_on_the_same_disk_holds_an_upload_twice(settings: Settings, tmp_path: Path) -> None:
    for name in ("work", "store"):
        (tmp_path / name).mkdir(exist_ok=True)
    assert Watermark(settings).copies() == 2
    assert Watermark(settings.model_copy(update={"store_url": "s3://bucket/v1"})).copies() == 1
