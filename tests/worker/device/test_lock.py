"""One worker a GPU."""

import os
import socket
import stat
from pathlib import Path

import pytest

from worker.device.lock import DeviceLock, DeviceTaken


def test_a_gpu_is_one_workers_and_the_other_hears_whose(tmp_path: Path) -> None:
    folder = tmp_path / "gpus"
    with DeviceLock(folder, "a"):
        with pytest.raises(DeviceTaken) as caught:
            DeviceLock(folder, "a")
        assert f"the GPU a is process {os.getpid()} on {socket.gethostname()}'s" in str(caught.value)
        assert "SECATEUR_DEVICE" in str(caught.value)
        DeviceLock(folder, "b").close()
    DeviceLock(folder, "a").close()


def test_a_lock_goes_with_the_last_process_that_holds_it(tmp_path: Path) -> None:
    """A worker forks; its children's copies hold the lock, too, and an end of any kind lets it go."""
    reading, writing = os.pipe()
    lock = DeviceLock(tmp_path, "a")
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0)
    lock.close()
    with pytest.raises(DeviceTaken):
        DeviceLock(tmp_path, "a")
    os.write(writing, b"x")
    os.waitpid(child, 0)
    DeviceLock(tmp_path, "a").close()
    os.close(reading)
    os.close(writing)


def test_workers_of_other_users_may_lock_there_too(tmp_path: Path) -> None:
    DeviceLock(tmp_path / "gpus", "a").close()
    assert stat.S_IMODE((tmp_path / "gpus").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "gpus" / "a.lock").stat().st_mode) == 0o666
