"""`log-mlflow`: jobs as runs of MLflow. It needs the extra `mlflow`."""

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from secateur.cli.context import AsJson, JobId, client_of, say


def log_mlflow(
    context: typer.Context,
    job: JobId,
    experiment: Annotated[str, typer.Option(help="Of MLflow; made when there is none.")] = "secateur",
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow's server; else MLFLOW_TRACKING_URI.", show_default=False)
    ] = None,
    artifact: Annotated[
        bool, typer.Option("--artifact", help="Also upload the job's files, not only say where they are.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Log a job to MLflow: parameters, R, metrics, pictures. Again, it brings the job's run up to date."""
    from secateur.mlflow import log_job  # only here: every command would import it

    # MLflow prints where it shows the run.
    with client_of(context) as client, redirect_stdout(sys.stderr):
        found = log_job(client, job, experiment=experiment, tracking_uri=tracking_uri, artifact=artifact)
    say(as_json, {"job": job, **found._asdict()}, f"run {found.run_id} of experiment {found.experiment_id}")
