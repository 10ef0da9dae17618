"""Models that see images: what reads text is pruned, the rest goes through as it is.

Slow: the towers that must stay are those of written checkpoints.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.family_check import check
from benchmarks.family_models import make_model
from tests.worker.pruning.conftest import Request
from worker.pruning import PruningJob, plan
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("wrapper") / "gemma3", "gemma3", wrapped=True)


def test_the_text_part_is_pruned_and_its_figures_are_transformers_own(gemma: Path, tmp_path: Path) -> None:
    found = check(gemma, tmp_path)
    assert (found.supported, found.reason, found.matrices) == (True, "", 28)


@pytest.mark.parametrize("family", ["mistral3", "qwen3_5"])
def test_wrappers_of_other_kinds(family: str, tmp_path: Path) -> None:
    """One with an auto class of its own, and one whose text part could be loaded alone."""
    found = check(make_model(tmp_path / "model", family, wrapped=True), tmp_path / "work")
    assert (found.supported, found.reason) == (True, "")
    assert found.matrices == found.pruned > 0


def test_what_sees_images_is_skipped_and_said(gemma: Path, request_for: Request) -> None:
    found = plan(PruningJob.from_dict(request_for(model=str(gemma))))
    assert found["architecture"] == "Gemma3ForConditionalGeneration"
    assert all("language_model" in entry["name"] for entry in found["matched"])
    reasons = {entry["reason"] for entry in found["skipped"] if "vision_tower" in entry["name"]}
    assert reasons == {"outside the language model (copied as it is)"}


def test_what_sees_images_is_never_loaded(gemma: Path) -> None:
    checkpoint = Checkpoint.open(gemma)
    graph = build_graph(gemma, checkpoint)
    with torch.no_grad():
        model = BlockRunner(graph, checkpoint, torch.device("cpu")).graph.model
    assert len(graph.towers) == 1
    tower = model.get_submodule(graph.towers[0])
    assert {parameter.device.type for parameter in tower.parameters()} == {"meta"}


def test_tensors_are_copied_as_the_library_writes_them(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 2),
        "a.half": torch.randn(5).bfloat16(),
        "a": torch.randn(2, 2, 2),
        "mask": torch.ones(3, dtype=torch.bool),
        "steps": torch.arange(3),
        "empty": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    Checkpoint.open(tmp_path).copy(tensors, tmp_path / "copied.safetensors")
    assert (tmp_path / "copied.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    Checkpoint.open(tmp_path).copy(["b", "mask"], tmp_path / "some.safetensors")
    found = load_file(tmp_path / "some.safetensors")
    assert found.keys() == {"b", "mask"}
    assert all(torch.equal(found[name], tensors[name]) for name in found)
