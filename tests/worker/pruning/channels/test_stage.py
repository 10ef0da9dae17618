"""Jobs that put an MLP's intermediate channels into another order."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from secateur.spec.records.history import MatrixRecord
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, known_again, prune
from tests.worker.pruning.lineages import chain, run_job, with_own_texts
from tests.worker.pruning.refine.test_block import longer
from worker.pruning.channels import stage
from worker.pruning.channels.free import Stored
from worker.pruning.channels.moved import Move, moved
from worker.pruning.channels.stage import read_channels
from worker.pruning.verify import verify_report

PERMUTED = {"pattern": "2:4", "channels": "permuted"}
WANDA = {"name": "wanda"}


def folder_of(request: dict[str, Any], stage: int = 0) -> Path:
    return Path(request["workspace"]) / f"stage-{stage:02d}"


def written(request: dict[str, Any], stage: int = 0) -> dict[str, Tensor]:
    files = sorted((folder_of(request, stage) / "model").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def orders(request: dict[str, Any], stage: int = 0) -> dict[str, tuple[Tensor, list[dict[str, Any]]]]:
    """By the matrix that reads them: the channels' order, and what moved with it, as state files say."""
    found = {}
    for file in sorted((folder_of(request, stage) / "state").glob("*.safetensors")):
        with safe_open(file, framework="pt") as reader:
            for name, said in json.loads(reader.metadata()["secateur"]).get("channels", {}).items():
                found[name] = (reader.get_tensor(f"{name}/channels").long(), said["moves"])
    return found


def undone(tensors: dict[str, Tensor], moved: dict[str, tuple[Tensor, list[dict[str, Any]]]]) -> dict[str, Tensor]:
    """The tensors as the model that was registered has them, by what the documentation says."""
    found = {name: tensor.clone() for name, tensor in tensors.items()}
    for order, moves in moved.values():
        for move in moves:
            side, copies = move["side"], move["copies"]
            number = torch.arange(copies)
            places = number.unsqueeze(1) * len(order) + order
            if move["interleaved"]:
                places = order.unsqueeze(1) * copies + number
            part = found[move["tensor"]] if move["slice"] is None else found[move["tensor"]][move["slice"]]
            back = torch.empty_like(part)
            back.index_copy_(side, places.flatten(), part)
            part.copy_(back)
    return found


def records(recorder: Recorder) -> dict[str, MatrixRecord]:
    return {record.matrix: record for block in recorder.blocks for record in block.records}


# What reads the intermediate channels; how many of them move in a model's three blocks.
FREE = {
    "llama": ("mlp.down_proj", 3),
    "qwen2": ("mlp.down_proj", 3),
    "gemma2": ("mlp.down_proj", 3),
    "phi3": ("mlp.down_proj", 3),
    "olmo2": ("mlp.down_proj", 3),
    "opt": ("fc2", 3),
    "opt-post-norm": ("fc2", 3),
    "gpt2-bare": ("mlp.c_proj", 3),
    "neox": ("mlp.dense_4h_to_h", 3),
    "falcon-parallel": ("mlp.dense_4h_to_h", 3),
    "bloom": ("mlp.dense_4h_to_h", 3),
    "mixtral": ("experts", 12),
    "qwen3-moe": ("down_proj", 9),
    "qwen2-moe": ("down_proj", 15),
}


@pytest.mark.parametrize("family", FREE)
def test_what_was_moved_can_be_moved_back(request_for: Request, tmp_path: Path, family: str) -> None:
    """Kept weights of a plain selection are the dense ones, each in its old place once the order is undone."""
    model = make_tiny(family, tmp_path / "model")
    request = request_for(model=str(model), method=WANDA, sparsity=PERMUTED)
    recorder = Recorder()
    prune(request, recorder)
    moved = orders(request)
    name, count = FREE[family]
    assert len(moved) == count
    assert all(name in each for each in moved)
    dense = load_file(model / "model.safetensors")
    for tensor, back in undone(written(request), moved).items():
        if tensor in dense:
            kept = back != 0
            assert torch.equal(back[kept], dense[tensor][kept]), tensor
    for name in moved:
        notes = records(recorder)[name].notes["channels"]
        assert 0 <= notes["permuted"] < notes["as_stored"] < 1
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    assert verify_report(folder_of(request) / "model", report).differences == ()


SOLVED = {"name": "admm", "target": "prefix", "output_weighting": "gradients"}


@pytest.mark.parametrize(
    "method",
    [
        WANDA,
        {**SOLVED, "refine": "block"},
        {**SOLVED, "refine": "model", "refinement": {"epochs": 1}},
        {**SOLVED, "refine": "norms"},
        {"name": "wanda", "mode": "sequential"},
    ],
)
def test_later_stages_keep_the_first_ones_order(request_for: Request, method: dict[str, Any]) -> None:
    """Two domains in one job, and in a job and its continuation: the same files."""
    fields = {"method": method, "sparsity": PERMUTED}
    whole = run_job(with_own_texts(request_for(domains="ab", workspace="whole", **fields)))
    parts = chain(request_for, "a", "b", **fields)
    assert parts[1].tensors("model").keys() == whole.tensors("model").keys()
    for kind in ("model", "state"):
        for name, tensor in whole.tensors(kind).items():
            assert torch.equal(tensor, parts[1].tensors(kind)[name]), name
    assert parts[1].document() == whole.document()
    first, second = (orders(whole.request, stage) for stage in (0, 1))
    assert first
    assert all(torch.equal(order, second[name][0]) for name, (order, _) in first.items())


@pytest.mark.parametrize("method", [WANDA, {**SOLVED, "refine": "block"}])
def test_a_resumed_job_finds_the_same_order(request_for: Request, method: dict[str, Any]) -> None:
    fields = {"method": method, "sparsity": PERMUTED, "domains": "ab"}
    request, recorder = request_for(workspace="whole", **fields), Recorder()
    prune(request, recorder)
    for stages, blocks in ((0, 1), (1, 0), (1, 1)):
        again = request_for(workspace=f"again-{stages}-{blocks}", **fields)
        shutil.copytree(request["workspace"], again["workspace"])
        reported = [each for each in known_again(recorder.evaluations) if each["row"] <= stages]
        again["resume"] = {"stages": stages, "blocks": blocks, "evaluations": reported}
        prune(again)
        for number in (0, 1):
            assert equal(written(request, number), written(again, number))
        assert orders(request, 1).keys() == orders(again, 1).keys()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("method", [WANDA, SOLVED, {"name": "copal"}, {"name": "sparsegpt"}, {"name": "auto"}])
def test_the_pattern_loses_less(request_for: Request, texts: Path, method: dict[str, Any]) -> None:
    """By what each matrix loses of its own outputs, behind blocks that have lost less themselves."""
    fields = {"method": method, "domains": longer(texts)}
    found = []
    for channels in ("as_stored", "permuted"):
        recorder = Recorder()
        prune(request_for(workspace=channels, sparsity=PERMUTED | {"channels": channels}, **fields), recorder)
        found.append({name: record for name, record in records(recorder).items() if "down_proj" in name})
    assert all("channels" not in record.notes for record in found[0].values())
    for name, record in found[1].items():
        assert record.relative_error is not None
        assert found[0][name].relative_error is not None
        assert record.relative_error < 0.97 * found[0][name].relative_error


def test_what_an_override_leaves_alone_stays_in_its_place(request_for: Request, tiny_llama: Path) -> None:
    """Where a matrix that writes the channels is skipped, nothing moves; elsewhere an n:m pattern decides."""
    skipped = {"match": "model.layers.0.mlp.up_proj.weight", "skip": True}
    request = request_for(method=WANDA, sparsity=PERMUTED | {"overrides": [skipped]})
    prune(request)
    assert set(orders(request)) == {"model.layers.1.mlp.down_proj.weight"}
    only = {"match": "*.1.mlp.down_proj.weight", "pattern": "2:4"}
    free = {"target": 0.5, "channels": "permuted", "overrides": [only]}
    request = request_for(method=WANDA, sparsity=free, workspace="override")
    prune(request)
    assert set(orders(request)) == {"model.layers.1.mlp.down_proj.weight"}
    dense = load_file(tiny_llama / "model.safetensors")
    for name, tensor in undone(written(request), orders(request)).items():
        assert torch.equal(tensor[tensor != 0], dense[name][tensor != 0]), name


def test_a_block_that_would_change_stays_as_it_is(request_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that is wrong is seen, and said."""
    monkeypatch.setattr(Stored, "of_matrix", lambda self, matrix, side, *_, **__: Move(matrix.tensor, None, side))
    monkeypatch.setattr(stage, "free_channels", _reads_alone)
    plain, request = (
        request_for(method=WANDA, sparsity={"pattern": "2:4"}, workspace="plain"),
        request_for(method=WANDA, sparsity=PERMUTED),
    )
    recorder = Recorder()
    prune(plain)
    prune(request, recorder)
    assert orders(request) == {}
    assert equal(written(request), written(plain))
    said = [
        data for level, message, data in recorder.notes if level == "warning" and "as they are stored" in message
    ]
    assert said == [{"blocks": [0, 1]}]


def _reads_alone(stored: Stored, groups: list[Any], *_: object) -> dict[Any, Any]:
    return {group[0]: (stored.of_matrix(group[0], 1),) for group in groups if "down" in group[0].name}


def test_zeros_that_fit_the_pattern_keep_their_places(
    request_for: Request, tmp_path: Path, tiny_llama: Path
) -> None:
    """A 2:4 model loses nothing as it is stored, so that nothing moves."""
    first = request_for(method=WANDA, sparsity={"pattern": "2:4"}, workspace="first")
    prune(first)
    again = request_for(method=WANDA, sparsity=PERMUTED, model=str(folder_of(first) / "model"), workspace="again")
    recorder = Recorder()
    prune(again, recorder)
    assert orders(again) == {}
    assert equal(written(again), written(first))
    assert any("free to move" in message for _, message, _ in recorder.notes)


@pytest.mark.parametrize("family", ["llama", "opt", "mixtral"])
def test_the_model_is_the_same_function(request_for: Request, tmp_path: Path, family: str) -> None:
    """As transformers computes it from files that have all weights, in the order that a job has found."""
    model = make_tiny(family, tmp_path / "model")
    request = request_for(model=str(model), method=WANDA, sparsity=PERMUTED)
    prune(request)
    dense, ids = load_file(model / "model.safetensors"), torch.arange(40).unsqueeze(0) + 3
    before = AutoModelForCausalLM.from_pretrained(model)(ids).logits
    channels = read_channels(sorted((folder_of(request) / "state").iterdir()))
    save_file(moved(dense, channels.values()), model / "model.safetensors", {"format": "pt"})
    after = AutoModelForCausalLM.from_pretrained(model)(ids).logits
    assert channels
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)
