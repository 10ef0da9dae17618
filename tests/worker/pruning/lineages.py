"""Jobs that continue others, as the service would ask the engine for them."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from secateur.spec.records.pipe import Output
from tests.worker.pruning.conftest import Recorder, Request, known_again, prune
from worker.pruning.report.records import HISTORY
from worker.pruning.state.file import read_document


@dataclass
class Ran:
    """A finished job. evaluations: the lineage's, as they come back from a database."""

    request: dict[str, Any]
    output: Output
    recorder: Recorder
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.request["workspace"])

    @property
    def lineage(self) -> list[str]:
        base = self.request.get("base") or {"domains": []}
        return [*base["domains"], *(domain["name"] for domain in self.request["domains"])]

    def artifact(self, path: str) -> Path:
        return self.folder / next(file.local for file in self.output.files if file.path == path)

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Of all files of the artifact's `model` or `state`, by file and name; without the records."""
        paths = [file.path for file in self.output.files if file.path.startswith(kind)]
        found: dict[str, Tensor] = {}
        for path in (path for path in paths if path.endswith(".safetensors")):
            loaded = load_file(self.artifact(path)).items()
            found |= {f"{path}:{name}": tensor for name, tensor in loaded if name != HISTORY}
        return found

    def states(self) -> dict[str, bytes]:
        return {f.path: (self.folder / f.local).read_bytes() for f in self.output.files if f.path[:5] == "state"}

    def weights(self) -> dict[str, bytes]:
        return {f.path: (self.folder / f.local).read_bytes() for f in self.output.files if f.path[:5] == "model"}

    def document(self, block: int = 0) -> dict[str, Any]:
        return read_document(self.artifact(f"state/block-{block:04d}.safetensors"))

    def perplexities(self) -> dict[tuple[int, str], float]:
        return {(each["row"], each["domain"]): each["perplexity"] for each in self.evaluations}

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found


def run_job(request: dict[str, Any]) -> Ran:
    recorder = Recorder()
    output = prune(request, recorder)
    known = request.get("resume", {}).get("evaluations", [])
    return Ran(request, output, recorder, [*known, *known_again(recorder.evaluations)])


def with_own_texts(request: dict[str, Any]) -> dict[str, Any]:
    """The request with each domain's own text as its test text."""
    for domain in request["domains"]:
        domain["evaluation"] = domain["dataset"]
    return request


def continuing(parent: Ran, request: dict[str, Any]) -> dict[str, Any]:
    """The request with the parent's artifact beside it, of which only what a base must have."""
    folder = Path(request["workspace"]) / "base"
    for file in parent.output.files:
        if file.path.startswith(("model/model-", "state/")):
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(parent.folder / file.local, folder / file.path)
    evaluated = [
        *(parent.request.get("base") or {"evaluations": []})["evaluations"],
        *({"domain": d["name"], "dataset": d["evaluation"]} for d in parent.request["domains"] if d["evaluation"]),
    ]
    base = {"folder": "base", "domains": parent.lineage, "evaluations": evaluated}
    texts = {**parent.request["texts"], **request["texts"]}
    return {
        **request,
        "texts": texts,
        "base": base,
        "resume": {"stages": 0, "blocks": 0, "evaluations": parent.evaluations},
    }


def chain(request_for: Request, *parts: Any, name: str = "part", **fields: Any) -> list[Ran]:
    """One job a part (a string of domains or a list of them), each continuing the one before it."""
    ran: list[Ran] = []
    for number, domains in enumerate(parts):
        request = with_own_texts(request_for(domains=domains, workspace=f"{name}-{number}", **fields))
        ran.append(run_job(continuing(ran[-1], request) if ran else request))
    return ran
