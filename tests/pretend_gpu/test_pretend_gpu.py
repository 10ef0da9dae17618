"""The pretend device refuses what CUDA refuses, and counts what costs time there."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.pretend_gpu import Counts, pretend_gpu
from tests.pretend_gpu.streams import Race

MIXED = "Expected all tensors to be on the same device"


def moved(counts: Counts) -> dict[str, int]:
    names = ("uploads", "uploads_bytes", "downloads", "downloads_bytes", "synchronisations", "launches")
    return {name: counts.total(name) for name in names if counts.total(name)}


def test_a_tensor_is_where_it_was_put() -> None:
    with pretend_gpu(2):
        here, there = torch.zeros(2, device="cuda"), torch.zeros(2).to("cuda:1", torch.float64)
        assert (str(here.device), here.is_cuda, here.is_cpu) == ("cuda:0", True, False)
        assert (str(there.device), there.dtype) == ("cuda:1", torch.float64)
        for made in (there + 1, there[:1], there.new_ones(3), torch.zeros_like(there), torch.nn.Parameter(there)):
            assert made.device == there.device
        assert there.cpu().device.type == "cpu"
        assert here.to("cuda:0") is here
    assert not torch.cuda.is_available()


@pytest.mark.parametrize(
    ("refused", "error", "said"),
    [
        (lambda gpu, other, cpu: gpu + other, RuntimeError, MIXED),
        (lambda gpu, other, cpu: gpu @ cpu, RuntimeError, MIXED),
        (lambda gpu, other, cpu: cpu.add_(gpu[0, 0]), RuntimeError, MIXED),
        (lambda gpu, other, cpu: torch.where(cpu > 0, gpu, 0.0), RuntimeError, MIXED),
        (lambda gpu, other, cpu: gpu.numpy(), TypeError, "can't convert cuda:0"),
        (lambda gpu, other, cpu: numpy.asarray(gpu), TypeError, "can't convert cuda:0"),
        (lambda gpu, other, cpu: pickle.dumps(gpu), RuntimeError, "not to be pickled"),
        (lambda gpu, other, cpu: cpu.to("cuda:2"), RuntimeError, "invalid device ordinal"),
        (lambda gpu, other, cpu: torch.empty(2**29, device="cuda:0"), torch.OutOfMemoryError, "out of memory"),
    ],
)
def test_what_cuda_refuses_is_refused(refused: Callable[..., Any], error: type[Exception], said: str) -> None:
    with pretend_gpu(2, memory=2**30):
        gpu, other, cpu = (torch.ones((4, 4), device=device) for device in ("cuda:0", "cuda:1", "cpu"))
        with pytest.raises(error, match=said):
            refused(gpu, other, cpu)


def test_only_what_writes_in_place_does() -> None:
    with pretend_gpu():
        one = torch.tensor([8], device="cuda:0")
        assert [(one >> 1).item(), (one << 1).item(), (one ^ 1).item(), one.item()] == [4, 16, 9, 8]
        one >>= 2
        assert one.add_(1) is one
        assert torch.mul(one, 2, out=torch.empty_like(one)).item() == 2 * one.item() == 6


def test_numbers_of_the_host_go_with_everything() -> None:
    with pretend_gpu():
        gpu = torch.ones(4, device="cuda:0")
        assert (gpu * torch.tensor(3.0)).tolist() == [3.0] * 4
        assert copy.deepcopy(gpu).device == gpu.device


@pytest.mark.parametrize(
    ("reads", "synchronisations"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: torch.unique(x), 1),
        (lambda x: x.to(torch.bfloat16), 0),
        (lambda x: x.masked_fill(x > 0, 0.0).sort(), 0),
        (lambda x: x.__setitem__(x > 0, 0.0), 0),
        (lambda x: torch.cuda.synchronize(), 1),
    ],
)
def test_what_waits_for_the_device_is_counted(reads: Callable[..., Any], synchronisations: int) -> None:
    with pretend_gpu() as counts:
        x = torch.arange(6.0, device="cuda")
        reads(x)
        assert counts.total("synchronisations") == synchronisations


def test_bytes_are_those_that_cross_the_bus() -> None:
    half = torch.ones(10, dtype=torch.bfloat16)
    with pretend_gpu() as counts:
        half.to("cuda")
        assert moved(counts) == {"uploads": 1, "uploads_bytes": 20, "synchronisations": 1}
    with pretend_gpu() as counts:  # the host makes it wider first
        half.to("cuda", torch.float32)
        assert counts.total("uploads_bytes") == 40
        assert counts.total("host_cast_bytes") == 20
    with pretend_gpu() as counts:  # the device does
        half.pin_memory().to("cuda", torch.float32, non_blocking=True)
        assert moved(counts) == {"uploads": 1, "uploads_bytes": 20, "launches": 1}
    with pretend_gpu() as counts:
        torch.zeros(10).copy_(half.to("cuda"))
        assert counts.total("downloads_bytes") == 20


def test_operations_are_counted_by_precision_and_by_phase() -> None:
    with pretend_gpu() as counts:
        one = torch.ones((4, 8), device="cuda")
        one.T @ one
        one.half() @ one.T.half()
        assert counts.figures["outside"]["flops_float32"] == 2 * 8 * 4 * 8
        assert counts.figures["outside"]["flops_float16"] == 2 * 4 * 8 * 4
        assert counts.worst("outside", "launches")[0][1] == counts.total("launches") == 5


def test_memory_is_that_of_living_storages() -> None:
    with pretend_gpu(2, memory=2**20) as counts:
        one = torch.zeros(1024, device="cuda:1")
        view = one[512:]
        del one
        assert torch.cuda.memory_allocated(1) == counts.live[1] == 4096
        assert torch.cuda.mem_get_info(1) == (2**20 - 4096, 2**20)
        del view
        assert (counts.live[1], torch.cuda.max_memory_allocated(1), counts.peak[0]) == (0, 4096, 0)


def test_shapes_alone_take_no_memory_and_make_up_what_is_read() -> None:
    with pretend_gpu(shapes=True, memory=2**45) as counts:
        big = torch.zeros((2**20, 2**20), device="cuda")
        norm = (big @ big).norm()
        assert float(norm) == 1.0
        assert not bool((big > 0).any())
        assert (big + 1)[:1].to("cpu", torch.bfloat16).shape == (1, 2**20)
        assert counts.peak[0] > 8 * 2**40


def test_every_thread_has_the_device() -> None:
    with pretend_gpu() as counts, ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: torch.ones(3, device="cuda").sum().item()).result() == 3.0
        assert counts.total("synchronisations") == 1


@pytest.mark.parametrize("half", [True, False])
def test_attention_is_chosen_as_cuda_chooses(half: bool) -> None:
    dtype = torch.bfloat16 if half else torch.float32
    host = [torch.randn((1, 4 if n == 0 else 2, 6, 8), dtype=dtype) for n in range(3)]
    expected = functional.scaled_dot_product_attention(*host, is_causal=True, enable_gqa=True)
    for backends, launches in (((SDPBackend.FLASH_ATTENTION,), 1), ((SDPBackend.MATH,), 0)):
        with pretend_gpu() as counts, sdpa_kernel(list(backends)):
            given = [each.to("cuda").requires_grad_() for each in host]
            if backends == (SDPBackend.FLASH_ATTENTION,) and not half:
                with pytest.raises(RuntimeError, match="No available kernel"):
                    functional.scaled_dot_product_attention(*given, is_causal=True, enable_gqa=True)
                continue
            with torch.enable_grad():
                found = functional.scaled_dot_product_attention(*given, is_causal=True, enable_gqa=True)
                found.sum().backward()
            kernel = "_scaled_dot_product_flash_attention_for_cpu"
            assert counts.operations["outside"][kernel] == launches
            assert bool(counts.unordered) is bool(launches)
            torch.testing.assert_close(found.cpu(), expected, atol=2e-2 if half else 1e-5, rtol=1e-2)
            assert all(each.grad.device.type == "cuda" for each in given if each.grad is not None)


def test_autocast_rounds_products() -> None:
    with pretend_gpu():
        one = torch.ones((2, 2), device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.is_autocast_enabled("cuda")
            assert (one @ one).dtype is torch.bfloat16
            with torch.autocast("cuda", enabled=False):
                assert (one @ one).dtype is torch.float32


def test_a_stream_must_wait_for_another_ones_writes() -> None:
    with pretend_gpu():
        copying, host = torch.cuda.Stream(), torch.ones(4).pin_memory()
        with torch.cuda.stream(copying):
            sent = host.to("cuda", non_blocking=True)
            done = copying.record_event()
        with pytest.raises(Race, match="wait_event is missing"):
            sent + 1
        torch.cuda.current_stream().wait_event(done)
        assert (sent + 1).tolist() == [2.0] * 4
        sent.record_stream(torch.cuda.current_stream())


def test_memory_that_another_stream_uses_must_not_be_given_back() -> None:
    def forgetful() -> None:
        with pretend_gpu():
            working = torch.cuda.Stream()
            one = torch.ones(4, device="cuda")
            working.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(working):
                one + 1
            del one

    with pytest.raises(Race, match="record_stream is missing"):
        forgetful()


def test_pinned_memory_holds_nothing_until_the_host_has_waited() -> None:
    with pretend_gpu():
        target = torch.zeros(4, pin_memory=True)
        assert target.is_pinned()
        target.copy_(torch.arange(4.0, device="cuda"), non_blocking=True)
        done = torch.cuda.current_stream().record_event()
        assert target.tolist() != [0.0, 1.0, 2.0, 3.0]
        done.synchronize()
        assert target.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_pinned_memory_must_not_be_written_to_while_it_is_sent() -> None:
    with pretend_gpu():
        source = torch.zeros(4).pin_memory()
        source.to("cuda", non_blocking=True)
        source.fill_(1.0)
        with pytest.raises(Race, match="written to"):
            torch.cuda.synchronize()


def test_each_thread_chooses_its_device() -> None:
    def other() -> str:
        torch.cuda.set_device(1)
        return str(torch.zeros(1, device="cuda").device)

    with pretend_gpu(2), ThreadPoolExecutor(1) as thread:
        assert thread.submit(other).result() == "cuda:1"
        assert str(torch.zeros(1, device="cuda").device) == "cuda:0"
        with torch.cuda.device(1):
            assert torch.cuda.current_device() == 1
