import gc
from pathlib import Path

import pytest
import torch

from worker.pruning.runtime.activations import ActivationCache


def states(dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.randn(2, 5, 8).to(dtype) for _ in range(3)] + [torch.randn(1, 5, 8).to(dtype)]


def mapped(folder: Path) -> int:
    """Ranges of this process's memory that are files of `folder`."""
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_memory", [0, 1, 2, 4])
def test_states_come_back_wherever_they_are(tmp_path: Path, dtype: torch.dtype, in_memory: int) -> None:
    given = states(dtype)
    with ActivationCache(tmp_path, sum(state.nbytes for state in given[:in_memory])) as hidden:
        for state in given:
            hidden.append(state)
        assert mapped(tmp_path) == 4 - in_memory
        assert (hidden.on_disk > 0) is (in_memory < 4)
        assert all(
            torch.equal(one, other) and one.dtype is dtype for one, other in zip(hidden, given, strict=True)
        )
        hidden[1] = given[1] + 1
        hidden[3] = given[3] * 2
        assert torch.equal(hidden[1], given[1] + 1)
        assert torch.equal(hidden[3], given[3] * 2)
        assert torch.equal(hidden[0], given[0])
        assert [state.shape[0] for state in hidden[2:]] == [2, 1]


def test_the_store_has_memory_of_its_own(tmp_path: Path) -> None:
    given = torch.zeros(4)
    hidden = ActivationCache(tmp_path, given.nbytes)
    hidden.append(given)
    given += 1
    assert hidden[0].tolist() == [0.0] * 4


def test_the_scratch_file_has_no_name_and_goes_with_the_states(tmp_path: Path) -> None:
    hidden = ActivationCache(tmp_path, 0)
    hidden.append(torch.zeros(100_000))
    assert list(tmp_path.iterdir()) == []
    assert mapped(tmp_path) == 1
    hidden.clear()
    gc.collect()
    assert (len(hidden), hidden.on_disk, mapped(tmp_path)) == (0, 0, 0)


def test_budget_is_free_again_after_clearing(tmp_path: Path) -> None:
    hidden = ActivationCache(tmp_path, 400)
    for _ in range(3):
        hidden.append(torch.zeros(100))
        assert hidden.on_disk == 0
        hidden.clear()


def test_what_the_disk_cannot_hold_is_an_error_at_once(tmp_path: Path) -> None:
    """A page without space behind it would end the process by a signal when it is first written."""
    hidden = ActivationCache(tmp_path, 0)
    hidden.append(torch.zeros(1000))
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the file system
        hidden.append(torch.zeros(1).expand(2**58))
    assert len(hidden) == 1
