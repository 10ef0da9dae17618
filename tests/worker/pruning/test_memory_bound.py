"""Nothing grows with the number of blocks, and what runs beside the computing changes no byte.

Slow: growth shows only over many blocks.
"""

import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.spec.records.pipe import BlockResult, Message
from tests.tiny import make_tiny_llama
from tests.worker.pruning.conftest import Recorder, Request, domain, known_again, prune
from tests.worker.pruning.test_runner import contents
from worker.engine.failures import describe
from worker.pruning import Stopped
from worker.pruning import prune_block as pruning
from worker.pruning import write_block as writing
from worker.pruning.evaluation import r_matrix
from worker.pruning.model.checkpoint import read_file
from worker.pruning.report.records import HISTORY
from worker.pruning.runtime.behind import Behind
from worker.pruning.state.context import StageContext

pytestmark = pytest.mark.slow

PREFIX = {"name": "admm", "target": "prefix", "output_weighting": "gradients"}
TUNED = {"name": "admm", "target": "prefix", "refine": "block"}
NORMS = {"name": "admm", "refine": "norms"}


class Weigher(Recorder):
    """Notes the most bytes of tensors alive at any of the job's looks at whether to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0

    def check(self) -> None:
        super().check()
        self.peak = max(self.peak, live_bytes())


def live_bytes() -> int:
    """Of all tensors that the collector knows and that were made since it was frozen."""
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.fixture
def frozen() -> Iterator[None]:
    """What exists already is not looked at: that would take a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is being written until the next one is, so that as much as can be is held at once."""
    waited = threading.Event()
    finish, write = Behind.finish, writing.write_tensors

    def finishing(behind: Behind) -> None:
        waited.set()
        finish(behind)
        waited.clear()

    def slow(*arguments: Any) -> None:
        assert waited.wait(60)
        write(*arguments)

    monkeypatch.setattr(Behind, "finish", finishing)
    monkeypatch.setattr(writing, "write_tensors", slow)


@pytest.mark.usefixtures("frozen", "slow_disk")
@pytest.mark.parametrize(
    "method",
    [{"name": "wanda"}, {"name": "admm"}, PREFIX, TUNED, NORMS],
    ids=["wanda", "admm", "prefix", "tuned", "norms"],
)
def test_live_tensors_do_not_grow_with_the_blocks(
    request_for: Request, tmp_path: Path, method: dict[str, str]
) -> None:
    peaks = []
    for blocks in (3, 6):
        folder = make_tiny_llama(tmp_path / str(blocks), blocks=blocks)
        weigher = Weigher()
        prune(request_for(model=str(folder), method=method, workspace=f"work-{blocks}"), weigher)
        peaks.append(weigher.peak)
    block = sum(
        tensor.nbytes
        for tensor in read_file(tmp_path / "work-6/stage-00/model/model-00001-of-00007.safetensors").values()
    )
    assert peaks[0] > 2 * block
    assert peaks[1] < peaks[0] + 0.1 * block


@pytest.mark.parametrize("mode", ["accumulated", "sequential"])
def test_hidden_states_on_disk_give_the_same_bytes(request_for: Request, mode: str) -> None:
    method = {"name": "copal", "weight_update": "admm", "mode": mode, "target": "prefix", "refine": "block"}
    one = prune(request_for(domains="ab", method=method, workspace="one"))
    two = prune(request_for(domains="ab", method=method, workspace="two", hidden_bytes=0))
    assert one.summary == two.summary


class Reader(Recorder):
    """Finds every block's files whole when it is told of it."""

    def __init__(self, workspace: str) -> None:
        super().__init__()
        self.workspace = Path(workspace)

    def tell(self, record: Message) -> None:
        super().tell(record)
        files = record.files if isinstance(record, BlockResult) else []
        assert all(read_file(self.workspace / path) for _, path in files)


def test_a_block_is_written_while_the_next_is_computed_and_told_of_when_its_files_are_whole(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, plain = request_for(), request_for(workspace="plain")
    begun, computed = threading.Event(), threading.Event()
    write, measure = writing.write_tensors, pruning.BlockInputs

    def slow_write(path: Path, *arguments: Any) -> None:
        if "block-0000" in path.name:
            begun.set()
            assert computed.wait(60)
        write(path, *arguments)

    def seen(context: Any, block: Any) -> Any:
        if block.index == 1:
            assert begun.wait(60)
            assert not (Path(request["workspace"]) / "stage-00/state/block-0000.safetensors").exists()
            computed.set()
        return measure(context, block)

    expected = contents(plain, prune(plain))
    monkeypatch.setattr(writing, "write_tensors", slow_write)
    monkeypatch.setattr(pruning, "BlockInputs", seen)
    recorder = Reader(request["workspace"])
    assert contents(request, prune(request, recorder)) == expected
    assert [block.block for block in recorder.blocks] == [0, 1]


def test_block_that_cannot_be_written_is_not_told_of(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job ends before a third block is begun, with what is said of a full disk."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    entered = []
    measure = pruning.BlockInputs
    monkeypatch.setattr(pruning, "BlockInputs", lambda *a: entered.append(a[1].index) or measure(*a))
    monkeypatch.setattr(writing, "write_tensors", full)
    recorder, model = Recorder(), make_tiny_llama(tmp_path / "model", blocks=4)
    with pytest.raises(OSError, match="No space left") as raised:
        prune(request_for(model=str(model)), recorder)
    assert describe(raised.value).code == "disk_full"
    assert recorder.blocks == []
    assert max(entered) <= 1


@pytest.mark.parametrize("method", [{"name": "admm"}, TUNED], ids=["admm", "tuned"])
def test_stopped_while_a_block_is_written_the_job_ends_in_the_same_bytes(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, str]
) -> None:
    model = str(make_tiny_llama(tmp_path / "model", blocks=3))
    whole, again = (request_for(model=model, domains="ab", method=method, workspace=name) for name in "wa")
    expected = contents(whole, prune(whole))
    handed, begun, stopped = threading.Event(), threading.Event(), threading.Event()
    write, advance = writing.write_tensors, pruning.advance_through

    def slow_write(path: Path, *arguments: Any) -> None:
        if "block-0001" in path.name:
            begun.set()
            assert stopped.wait(60)
        write(path, *arguments)

    def handed_over(context: Any, block: Any, **options: Any) -> None:
        if block.index == 1:
            handed.set()
        advance(context, block, **options)

    class Stopping(Recorder):
        def check(self) -> None:
            if handed.is_set():
                assert begun.wait(60)
                stopped.set()
                raise Stopped

    stopping = Stopping()
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_tensors", slow_write)
        patch.setattr(pruning, "advance_through", handed_over)
        with pytest.raises(Stopped):
            prune(again, stopping)
    assert [(each.stage, each.block) for each in stopping.blocks] == [(0, 0)]
    again["resume"] = {"stages": 0, "blocks": 1, "evaluations": known_again(stopping.evaluations)}
    rest = Recorder()
    assert contents(again, prune(again, rest)) == expected
    assert [(each.stage, each.block) for each in rest.blocks] == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_block_with_nothing_to_prune_is_passed_once(request_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    forward = StageContext.forward

    def counted(context: StageContext, block: Any, state: torch.Tensor) -> torch.Tensor:
        passes.append((block.index, len(state)))
        return forward(context, block, state)

    monkeypatch.setattr(StageContext, "forward", counted)
    recorder = Recorder()
    overrides = [{"match": "model.layers.0.*", "skip": True}]
    prune(request_for(sparsity={"target": 0.4, "overrides": overrides}), recorder)
    # Five windows and one held out: through block 0 as written; then one window to find the groups of block 1, and
    # all for its statistics.
    assert passes == [(0, 5), (0, 1), (1, 1), (1, 5), (1, 1)]
    assert recorder.blocks[0].records == []


def test_texts_of_the_same_windows_are_evaluated_once(
    request_for: Request, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    losses = r_matrix.window_losses
    monkeypatch.setattr(r_matrix, "window_losses", lambda *a: counts.append(len(a[2])) or losses(*a))
    recorder = Recorder()
    request = request_for(domains="ab")
    request["domains"].append({**domain(texts, "c"), "dataset": "c", "evaluation": "a"})
    prune(request, recorder)
    assert counts == [2] * 4
    assert len(recorder.evaluations) == 12
    for row in range(4):
        a, b, c = (e.perplexity for e in recorder.evaluations if e.row == row)
        assert a == b != c


def test_forward_passes_in_bfloat16_keep_float32_statistics_and_are_reported(request_for: Request) -> None:
    """A job goes on in the dtype that its first evaluation had."""
    wide, half = request_for(workspace="wide"), request_for(workspace="half")
    for request, dtype in ((wide, "float32"), (half, "bfloat16")):
        reported = [{"row": 0, "domain": "a", "perplexity": 1.0, "protocol": {"dtype": dtype}}]
        request["resume"] = {"stages": 0, "blocks": 0, "evaluations": reported}
        recorder = Recorder()
        prune(request, recorder)
        assert {e.protocol["dtype"] for e in recorder.evaluations} == {dtype}
        report = json.loads((Path(request["workspace"]) / "report.json").read_text())
        assert report["settings"]["dtype"] == {"forward": dtype, "statistics": "float32", "search": "medium"}
    states = [read_file(Path(r["workspace"]) / "stage-00/state/block-0000.safetensors") for r in (wide, half)]
    for state in states:
        state.pop(HISTORY)
    for name, value in states[0].items():
        assert states[1][name].dtype is torch.float32
        torch.testing.assert_close(states[1][name], value, rtol=0.05, atol=0.05)
    assert any(not torch.equal(states[1][name], value) for name, value in states[0].items())
    # Without any evaluation, what the committed blocks say counts.
    rest = half | {"domains": [{**half["domains"][0], "evaluation": None}]}
    rest["resume"] = {"stages": 0, "blocks": 1, "evaluations": []}
    prune(rest)
    assert (
        json.loads((Path(rest["workspace"]) / "report.json").read_text())["settings"]["dtype"]["forward"]
        == "bfloat16"
    )
