import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.spec.sparsity import Pattern
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Request, prune
from worker.pruning import UserError
from worker.pruning.verify import locate, main, verify_pattern, verify_report

MATRIX = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def pruned(request_for: Request) -> Path:
    """Artifacts of a 2:4 job: model/ and report.json."""
    request = request_for(sparsity={"pattern": "2:4"})
    prune(request)
    artifacts = Path(request["workspace"]) / "artifacts"
    shutil.copytree(Path(request["workspace"]) / "stage-00/model", artifacts / "model")
    shutil.copy(Path(request["workspace"]) / "report.json", artifacts)
    return artifacts


def report_of(artifacts: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((artifacts / "report.json").read_text())
    return report


def tamper(artifacts: Path, change: Callable[[Tensor], None], matrix: str = MATRIX) -> None:
    for path in (artifacts / "model").glob("*.safetensors"):
        tensors = load_file(path)
        if matrix in tensors:
            change(tensors[matrix])
            save_file(tensors, path, metadata={"format": "pt"})


def test_a_checkpoint_is_what_its_report_says(pruned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_report(pruned / "model", report_of(pruned))
    assert found.differences == ()
    assert (found.matrices, found.zeros * 2) == (14, found.weights)
    assert main([str(pruned)]) == main([str(pruned / "model")]) == main([str(pruned), "--pattern", "2:4"]) == 0
    assert "as it should be" in capsys.readouterr().out


def test_one_weight_too_many_is_found_and_located(pruned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def add(weight: Tensor) -> None:
        group = weight[5, 8:12]
        group[int((group == 0).nonzero()[0])] = 0.5

    tamper(pruned, add)
    found = verify_report(pruned / "model", report_of(pruned))
    own = {difference.what: difference for difference in found.differences if difference.matrix == MATRIX}
    assert own.keys() == {"zeros", "pattern", "mask_sha256", "weights_sha256"}
    assert int(own["zeros"].expected) - int(own["zeros"].found) == 1
    assert own["pattern"].found == "1 groups with more non-zeros, the first at row 5, inputs 8 to 11"
    whole = {difference.what for difference in found.differences if difference.matrix is None}
    assert whole == {"zeros", "masks_sha256", "weights_sha256"}
    assert main([str(pruned)]) == 1
    assert MATRIX in capsys.readouterr().out
    by_pattern = verify_pattern(pruned / "model", Pattern(2, 4))
    assert [difference.what for difference in by_pattern.differences] == ["pattern"]


def test_a_changed_value_is_found_by_its_digest(pruned: Path) -> None:
    tamper(pruned, lambda weight: weight.mul_(1.0001))
    found = verify_report(pruned / "model", report_of(pruned))
    expected = [(MATRIX, "weights_sha256"), (None, "weights_sha256")]
    assert [(difference.matrix, difference.what) for difference in found.differences] == expected


def test_a_moved_zero_is_found_although_the_count_is_right(pruned: Path) -> None:
    def move(weight: Tensor) -> None:
        group = weight[0, :4]
        here, there = int((group == 0).nonzero()[0]), int((group != 0).nonzero()[0])
        group[here], group[there] = float(group[there]), 0.0

    tamper(pruned, move)
    found = verify_report(pruned / "model", report_of(pruned))
    assert {each.what for each in found.differences if each.matrix} == {"mask_sha256", "weights_sha256"}
    assert {each.matrix for each in found.differences} == {MATRIX, None}


def test_what_is_not_a_number_is_found(pruned: Path) -> None:
    tamper(pruned, lambda weight: weight.masked_fill_(weight != 0, torch.nan))
    found = verify_pattern(pruned / "model", Pattern(2, 4))
    assert [(each.matrix, each.what) for each in found.differences] == [(MATRIX, "values")]


def test_another_shape_or_matrix_than_reported_is_found(pruned: Path) -> None:
    report = report_of(pruned)
    report["matrices"][-1][0] |= {"matrix": "model.layers.7.nowhere.weight"}
    report["matrices"][-1][1] |= {"rows": 3}
    found = {(each.matrix, each.what) for each in verify_report(pruned / "model", report).differences}
    assert ("model.layers.7.nowhere.weight", "tensor") in found
    assert (report["matrices"][-1][1]["matrix"], "shape (out, in)") in found


def test_the_target_is_met_to_the_weight(request_for: Request) -> None:
    request = request_for(sparsity={"target": 0.3})
    prune(request)
    folder = Path(request["workspace"]) / "stage-00/model"
    assert verify_pattern(folder, Pattern(), 0.3).differences == ()
    found = verify_pattern(folder, Pattern(), 0.301)
    assert [(each.matrix, each.what) for each in found.differences] == [(None, "zeros")]


def test_transposed_matrices_are_checked_along_their_inputs(tmp_path: Path, request_for: Request) -> None:
    """GPT-2 stores (in, out): read the other way, 2:4 does not hold."""
    request = request_for(model=str(make_tiny("gpt2", tmp_path / "gpt2")), sparsity={"pattern": "2:4"})
    prune(request)
    folder = Path(request["workspace"]) / "stage-00/model"
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    assert verify_report(folder, report).differences == ()
    assert verify_pattern(folder, Pattern(2, 4), 0.5).differences == ()
    name = report["matrices"][-1][0]["matrix"]
    stored = next(t[name] for p in sorted(folder.glob("*.safetensors")) if name in (t := load_file(p)))
    assert int((stored.reshape(len(stored), -1, 4) != 0).sum(dim=2).max()) > 2


def test_a_dense_model_does_not_pass(tiny_llama: Path) -> None:
    found = verify_pattern(tiny_llama, Pattern(2, 4), 0.5)
    assert len(found.differences) == found.matrices + 1


def test_what_cannot_be_checked_says_so(pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "cannot be checked" in capsys.readouterr().err
    (pruned / "report.json").write_text('{"matrices": []}')
    assert main([str(pruned)]) == 2
    with pytest.raises(UserError, match="not the report"):
        verify_report(pruned / "model", {"matrices": [[{"matrix": "a"}]], "summary": {}})


def test_the_report_is_looked_for_in_the_folder_and_beside_it(pruned: Path, tmp_path: Path) -> None:
    assert locate(pruned, None) == (pruned / "model", pruned / "report.json")
    (pruned / "report.json").rename(pruned / "model/report.json")
    assert locate(pruned / "model", None) == (pruned / "model", pruned / "model/report.json")
    assert locate(pruned, tmp_path / "other.json")[1] == tmp_path / "other.json"


@pytest.mark.slow
def test_it_is_a_command(pruned: Path) -> None:
    """Which nothing but its process shows."""
    command = [sys.executable, "-m", "worker.pruning.verify", str(pruned), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["differences"] == []
