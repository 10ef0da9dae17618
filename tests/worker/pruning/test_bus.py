"""What a job sends to a GPU and fetches from it, and that where its hidden states are changes no byte."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretend_gpu import pretend_gpu
from tests.tiny import make_tiny_llama
from tests.worker.pruning.conftest import Recorder, Request, known_again, prune
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.runtime.hidden_states import Room

BATCH = 5 * 32 * 64 * 4
"""Bytes of the hidden states of a job's windows to solve on."""
SOME = Room(device=2 * BATCH, host=4 * BATCH)
"""For some of them on the device, and some in memory; the others go to the file."""
BOTH = {
    "name": "admm",
    "target": "prefix",
    "output_weighting": "gradients",
    "admm": {"iterations": 2, "mask_steps": 1},
}
"""A method that passes the dense model, too, and looks at the loss's gradients."""


def written(workspace: Any) -> dict[str, str]:
    files = sorted(Path(workspace).rglob("*.safetensors"))
    return {str(path.relative_to(workspace)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def in_room(request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Prunes on a GPU with so much room for hidden states."""
    model = make_tiny_llama(tmp_path / "model", dtype=torch.bfloat16)

    def run(name: str, room: Room, recorder: Recorder | None = None, **fields: Any) -> dict[str, str]:
        monkeypatch.setattr(Room, "beside", lambda *_: room)
        request = request_for(model=str(model), workspace=name, device="cuda", **fields)
        with pretend_gpu():
            prune(request, recorder)
        return written(request["workspace"])

    return run


@pytest.mark.slow
def test_hidden_states_give_the_same_bytes_wherever_they_are(in_room: Any) -> None:
    """Slow: that nothing of a whole job overtakes anything else shows in its files alone."""
    fields = {"method": BOTH, "sparsity": {"target": 0.5}}
    everything = in_room("device", Room(device=2**30), **fields)
    assert everything
    for name, room in {"file": Room(), "some": SOME}.items():
        assert in_room(name, room, **fields) == everything, name


@pytest.mark.slow
def test_a_resume_with_less_room_gives_the_same_bytes(in_room: Any, tmp_path: Path) -> None:
    """Slow: two jobs, one of them from its middle on."""
    recorder = Recorder()
    whole = in_room("one", Room(device=2**30), recorder, method=BOTH)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    known = known_again(each for each in recorder.evaluations if each.row == 0)
    resume = {"stages": 0, "blocks": 1, "evaluations": known}
    assert in_room("two", SOME, method=BOTH, resume=resume) == whole


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_a_block_is_sent_once_a_pass_as_it_is_stored(
    stored: torch.dtype, request_for: Request, tmp_path: Path
) -> None:
    """Of a survey forward and backward, to be pruned, and for the models before and after."""
    model = make_tiny_llama(tmp_path / "model", blocks=3, dtype=stored)
    tensors = Checkpoint.open(model).tensors
    blocks = sum(each.bytes for name, each in tensors.items() if ".layers." in name)
    first = sum(each.bytes for name, each in tensors.items() if ".layers.0." in name)
    outer = sum(each.bytes for each in tensors.values()) - blocks
    request = request_for(model=str(model), device="cuda", sparsity={"target": 0.5})
    with pretend_gpu() as counts:
        prune(request)
    sent: Counter[str] = sum((own for phase, own in counts.figures.items() if phase.endswith("load")), Counter())
    assert sent["uploads_bytes"] == 5 * blocks + outer + first  # the first one, too, to see what blocks return
    assert sent["host_cast_bytes"] == 0
    assert sent["synchronisations"] <= 2 * len(tensors)  # of what is read before anything runs
