"""Sparse weights at inference: forms compute the same, and what they take is counted. No times are judged."""

from pathlib import Path

import pytest
import torch

from benchmarks import inference, inference_forms
from benchmarks.inference_forms import TWO_FOUR, Form, Rows, forms, held_bytes, load, prune
from secateur.spec.sparsity import Pattern
from tests import tiny
from worker.pruning.methods.masks import follows

ROWS = Form("50 % in rows", torch.float32, Pattern(), Rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_tiny_llama(tmp_path_factory.mktemp("inference") / "tiny", blocks=2, hidden=64)


@pytest.mark.parametrize("pattern", [Pattern(), TWO_FOUR], ids=str)
def test_the_smaller_half_becomes_zero(pattern: Pattern) -> None:
    before = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    weight = before.clone()
    prune(weight, pattern)
    assert int((weight == 0).sum()) == weight.numel() // 2
    assert follows(weight, pattern)
    kept, gone = before[weight != 0].abs(), before[weight == 0].abs()
    assert pattern.group is not None or gone.max() <= kept.min()


def test_rows_compute_what_the_dense_kernel_does_and_are_counted_to_the_byte() -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    prune(weight, Pattern())
    rows, inputs = Rows(weight), torch.randn(2, 3, 10)
    torch.testing.assert_close(rows(inputs), torch.nn.functional.linear(inputs, weight))
    assert rows.bytes == 4 * (6 + 1) + (4 + 4) * 30


def test_figures_are_there_for_every_form_that_a_cpu_has_kernels_for(model: Path, tmp_path: Path) -> None:
    options = inference.arguments(["--device", "cpu", "--rounds", "1", "--prompt", "4", "--tokens", "2"])
    found = inference.measure(options, model)
    tried = {form.title for form in forms("cpu")}
    assert found["rows"].keys() | found["lacking"].keys() == tried
    assert found["lacking"].keys() == {"2:4 by cutlass, bfloat16"}
    dense, half = (found["rows"][f"{name}, bfloat16"] for name in ("dense", "50 %"))
    assert dense["prefill"]["ratio"] == dense["decode"]["ratio"] == 1
    assert dense["memory_bytes"] == half["memory_bytes"]
    assert dense["disk_bytes"]["dense"] == half["disk_bytes"]["dense"] > half["disk_bytes"]["packed"]
    lines = inference.table(found).splitlines()
    assert len(lines) == 2 + len(tried)


def test_a_kernel_that_computes_something_else_is_found(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = inference.Runs(Form("50 %", torch.float32, Pattern()), load(model, forms("cpu")[1], "cpu"))
    prompt = torch.arange(6)[None]
    inference.check_kernels([plain, inference.Runs(ROWS, load(model, ROWS, "cpu"))], prompt)
    monkeypatch.setattr(
        inference_forms.Rows, "forward", lambda self, inputs: (self.rows @ inputs[0].T).T[None] * 1.1
    )
    with pytest.raises(AssertionError, match="computes something else"):
        inference.check_kernels([plain, inference.Runs(ROWS, load(model, ROWS, "cpu"))], prompt)


def test_a_weight_that_is_used_twice_is_counted_once(model: Path) -> None:
    loaded = load(model, forms("cpu")[0], "cpu")
    assert held_bytes(loaded) == sum(4 * each.numel() for each in set(loaded.parameters()))
