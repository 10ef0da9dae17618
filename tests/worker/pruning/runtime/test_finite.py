import pytest
import torch

from worker.pruning.runtime.numerics import all_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_number_that_is_not_finite_is_enough(dtype: torch.dtype) -> None:
    assert all_finite(torch.ones(7, 9, dtype=dtype))
    for value in (torch.nan, torch.inf, -torch.inf):
        values = torch.ones(7, 9, dtype=dtype)
        values[3, 4] = value
        assert not all_finite(values)
    both = torch.tensor([torch.inf, -torch.inf, 0.0], dtype=dtype)
    assert not all_finite(both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_whose_sum_overflows_are_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    assert all_finite(torch.full((10,), largest, dtype=dtype))
    assert not all_finite(torch.tensor([largest, largest, torch.nan], dtype=dtype))
    assert all_finite(torch.empty(0, dtype=dtype))
