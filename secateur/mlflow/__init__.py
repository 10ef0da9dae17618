"""Jobs as runs of MLflow: parameters, R and what follows from it, pictures, and the artifact or where it is.

    from secateur.mlflow import log_job

    log_job(client, job["id"], experiment="pruning")

A job has one run of an experiment, found by the tag `secateur.job`; logged again, it is brought up to date. Needs
the extra `mlflow`. Which server: `tracking_uri`, else MLFLOW_TRACKING_URI, with MLflow's own variables for
credentials.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from secateur.client import Client
from secateur.errors import SecateurError
from secateur.inputs import datasets_of
from secateur.mlflow.record import JOB_TAG, STATUS, Answers, metrics, milliseconds, parameters, tags
from secateur.pictures import PICTURES, draw
from secateur.transport import Answer
from secateur.waiting import FINISHED

EXPERIMENT: Final = "secateur"
BATCH: Final = 100
"""MLflow takes so many parameters and tags at once, and more metrics."""
T = TypeVar("T")


class Logged(NamedTuple):
    """The run of a job."""

    experiment_id: str
    run_id: str


def log_job(
    client: Client,
    job: str,
    *,
    experiment: str = EXPERIMENT,
    tracking_uri: str | None = None,
    artifact: bool = False,
) -> Logged:
    """Log a job as a run, or bring its run up to date.

    job: its id; it may still run. artifact: also upload the job's files, below `artifact/`; without, the tag
    `secateur.artifact` says where they are. Raises SecateurError when MLflow is not installed or named, refuses,
    or does not answer.
    """
    mlflow = _mlflow()
    if tracking_uri is None and not mlflow.is_tracking_uri_set():
        raise SecateurError("say where MLflow's server is, by --tracking-uri or MLFLOW_TRACKING_URI")
    answers = gather(client, job)
    try:
        to = _Run(mlflow, mlflow.MlflowClient(tracking_uri=tracking_uri), experiment, answers.job)
        to.write(answers, client.url)
        with tempfile.TemporaryDirectory(prefix="secateur-mlflow-") as folder:
            write_files(client, answers, Path(folder), artifact=artifact)
            to.client.log_artifacts(to.run_id, folder)
        to.finish(answers.job)
    except mlflow.exceptions.MlflowException as error:
        raise SecateurError(f"MLflow: {error}") from error
    return Logged(to.experiment_id, to.run_id)


def gather(client: Client, id: str) -> Answers:
    """What there is to log of a job."""
    job: Answer = client.job(id)
    return Answers(
        job=job,
        model=client.model(job["model"]),
        datasets={each: found["sha256"] for each, found in datasets_of(client, job).items() if found["sha256"]},
        evaluation=client.evaluation(id),
        stages=list(client.stages(id)),
    )


def write_files(client: Client, answers: Answers, folder: Path, *, artifact: bool) -> None:
    """The run's files: the answers as JSON, the pictures of one job, and on request the job's own files."""
    job = answers.job["id"]
    documents = {"job": answers.job, "evaluation": answers.evaluation}
    if answers.job.get("result"):
        documents["manifest"] = client.manifest(job)
        if artifact:
            client.download(job, folder / "artifact")
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    (folder / "figures").mkdir()
    for name in (name for name, picture in PICTURES.items() if not picture.of_several):
        (folder / "figures" / f"{name}.png").write_bytes(draw(client, name, job))


class _Run:
    """A job's run on a server of MLflow, made when there is none."""

    def __init__(self, mlflow: Any, client: Any, experiment: str, job: Answer) -> None:
        self._entities = mlflow.entities
        self.client = client
        self.experiment_id = str(self._experiment(experiment, mlflow.exceptions.MlflowException))
        found = client.search_runs(
            [self.experiment_id], f"tags.`{JOB_TAG}` = '{job['id']}'", max_results=1, order_by=["start_time ASC"]
        )
        begun = milliseconds(job["started_at"] or job["created_at"])
        self._known = (
            found[0]
            if found
            else client.create_run(
                self.experiment_id, start_time=begun, run_name=job["id"], tags={JOB_TAG: job["id"]}
            )
        )
        self.run_id = str(self._known.info.run_id)

    def _experiment(self, name: str, refused: type[Exception]) -> Any:
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            return known.experiment_id
        try:
            return self.client.create_experiment(name)
        except refused:
            # Another one has made it in the meantime; or it was deleted, which MLflow then says.
            known = self.client.get_experiment_by_name(name)
            if known is None:
                raise
            return known.experiment_id

    def write(self, answers: Answers, url: str) -> None:
        """Parameters, metrics and tags. A parameter never changes, and a value of a metric is written once."""
        old = self._known.data
        given = [(name, value) for name, value in parameters(answers).items() if name not in old.params]
        for some in _batches([self._entities.Param(name, value) for name, value in given]):
            self.client.log_batch(self.run_id, params=some)
        there = {(name, each.step): each.value for name in old.metrics for each in self._history(name)}
        new = [each for each in metrics(answers) if there.get((each.name, each.step)) != each.value]
        measured = [self._entities.Metric(each.name, each.value, each.at, each.step) for each in new]
        for some in _batches(measured):
            self.client.log_batch(self.run_id, metrics=some)
        for some in _batches([self._entities.RunTag(*each) for each in tags(answers, url).items()]):
            self.client.log_batch(self.run_id, tags=some)

    def _history(self, name: str) -> Sequence[Any]:
        found: Sequence[Any] = self.client.get_metric_history(self.run_id, name)
        return found

    def finish(self, job: Answer) -> None:
        """The run has ended as the job has."""
        if job["state"] in FINISHED:
            ended = milliseconds(job["finished_at"])
            self.client.set_terminated(self.run_id, STATUS[job["state"]], ended)
        else:
            self.client.update_run(self.run_id, status="RUNNING")


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _mlflow() -> Any:
    try:
        import_module("mlflow.entities")
        return import_module("mlflow")
    except ModuleNotFoundError as error:
        raise SecateurError(
            f"logging to MLflow needs its client ({error.name} is missing): pip install 'secateur[mlflow]'"
        ) from error
