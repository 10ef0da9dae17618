import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from secateur.spec.records.pipe import Output
from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.pruning.state.digests import mask_sha256, total, weights_sha256


def contents(request: dict[str, Any], output: Output) -> dict[str, bytes]:
    return {file.path: (Path(request["workspace"]) / file.local).read_bytes() for file in output.files}


def test_same_spec_gives_the_same_digests_and_bytes_and_another_seed_does_not(request_for: Request) -> None:
    requests = [
        request_for(domains="ab", method={"name": "admm"}, workspace=name) for name in ("one", "two", "three")
    ]
    requests[2]["domains"][0]["calibration"]["seed"] = 1
    outputs = [prune(request) for request in requests]
    kept = {"masks_sha256", "weights_sha256"}
    one, two, three = (output.summary.model_dump(include=kept) for output in outputs)
    assert one == two
    assert contents(requests[0], outputs[0]) == contents(requests[1], outputs[1])
    assert one["masks_sha256"] != three["masks_sha256"]
    assert one["weights_sha256"] != three["weights_sha256"]


def test_digests_are_those_of_the_files(request_for: Request) -> None:
    request, recorder = request_for(domains="ab"), Recorder()
    output = prune(request, recorder)
    for stage in (0, 1):
        written: dict[str, torch.Tensor] = {}
        for path in (Path(request["workspace"]) / f"stage-{stage:02d}/model").glob("*.safetensors"):
            written |= load_file(path)
        records = [
            {"matrix": name, "mask": mask_sha256(tensor), "weights": weights_sha256(tensor)}
            for name, tensor in written.items()
            if "_proj." in name
        ]
        assert recorder.stages[stage].masks_sha256 == total(records, "mask")
        assert recorder.stages[stage].weights_sha256 == total(records, "weights")
    assert output.summary.weights_sha256 == recorder.stages[1].weights_sha256


def test_report_says_what_the_bytes_depend_on(request_for: Request) -> None:
    request = request_for(threads=1)
    prune(request)
    settings = json.loads((Path(request["workspace"]) / "report.json").read_text())["settings"]
    assert (settings["threads"], settings["batch_tokens"]) == (1, 4096)
    assert settings["device"]["type"] == torch.device(request["device"]).type
    assert settings["dtype"]["statistics"] == "float32"
    assert settings["device"]["libraries"]["torch"] == torch.__version__


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mask_digest_sees_zeros_only(dtype: torch.dtype) -> None:
    weight = torch.randn(5, 7).to(dtype)
    weight[2, 3] = 0
    assert mask_sha256(weight) == mask_sha256(weight * 2)
    assert weights_sha256(weight) != weights_sha256(weight * 2)
    moved = weight.clone()
    moved[2, 3], moved[2, 4] = 1, 0
    assert mask_sha256(weight) != mask_sha256(moved)


def test_total_does_not_depend_on_the_order_of_the_matrices() -> None:
    records = [{"matrix": "b", "mask_sha256": "0"}, {"matrix": "a", "mask_sha256": "1"}]
    swapped = [{"matrix": "a", "mask_sha256": "0"}, {"matrix": "b", "mask_sha256": "1"}]
    assert total(records, "mask_sha256") == total(records[::-1], "mask_sha256")
    assert total(records, "mask_sha256") != total(swapped, "mask_sha256")
