"""Commands about jobs: submit, watch, ls, get, evaluation."""

from collections.abc import Sequence
from itertools import islice
from typing import Annotated

import typer

from secateur.cli import gate as gates
from secateur.cli import show
from secateur.cli.context import AsJson, JobId, client_of, errors, output, print_json, say
from secateur.cli.exits import Exit, exit_of
from secateur.cli.plans import print_plan
from secateur.cli.settings import Settings, apply
from secateur.cli.spec import SpecOptions, build_spec, read_spec
from secateur.cli.watching import watch as watch_job
from secateur.client import Client
from secateur.transport import Answer, Json

Gate = Annotated[
    bool,
    typer.Option(
        "--gate",
        help="Stay until the job ends, and print each limit of its gate with what was measured; in GitHub Actions "
        "also as the step's summary and outputs. A spec without a gate is refused.",
    ),
]


def submit(
    context: typer.Context,
    spec: Annotated[str | None, typer.Argument(help="JSON file with the whole spec, or - for stdin.")] = None,
    model: Annotated[str | None, typer.Option(help="mdl_… or a model's name.")] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            help="name=calibration[:evaluation]: dataset ids or local files, in order.", metavar="DOMAIN"
        ),
    ] = None,
    continues: Annotated[
        str | None,
        typer.Option(
            help="job_… to continue: its model, method and sparsity, with further domains.", metavar="JOB"
        ),
    ] = None,
    effort: Annotated[
        str | None, typer.Option(help="fast, standard (the default) or best: what is done for quality.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="copal (the default), auto, admm, alps, sparsegpt, wanda or magnitude.")
    ] = None,
    weight_update: Annotated[str | None, typer.Option(help="admm or none.")] = None,
    mode: Annotated[str | None, typer.Option(help="accumulated, restart or sequential.")] = None,
    objective: Annotated[str | None, typer.Option(help="mean or least_forgetting.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of weights to remove, such as 0.5.")] = None,
    pattern: Annotated[str | None, typer.Option(help="unstructured, or n:m such as 2:4.")] = None,
    samples: Annotated[int | None, typer.Option(help="Calibration windows a domain.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens in a window.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the calibration sample.")] = None,
    max_windows: Annotated[int | None, typer.Option(help="Evaluation windows a domain at the most.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    max_runtime: Annotated[str | None, typer.Option(help="Fail after so long at work, such as 12h.")] = None,
    max_pending: Annotated[str | None, typer.Option(help="Fail after so long in the queue, such as 90m.")] = None,
    max_bwt: Annotated[float | None, typer.Option(help="Fail when more is forgotten on average.")] = None,
    max_log_bwt: Annotated[float | None, typer.Option(help="The same in log-perplexity.")] = None,
    max_mean_perplexity: Annotated[float | None, typer.Option(help="Fail above this mean perplexity.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    text_field: Annotated[str | None, typer.Option(help="Field of uploaded JSON lines.")] = None,
    settings: Settings = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Submit at most once under this key.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "--wait", help="Stay until the job ends; the exit code is as of `watch`.")
    ] = False,
    gate: Gate = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what the job would do and start none (local files are uploaded).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a job from a JSON spec or from options; prints its id."""
    if plan and (watch or gate or idempotency_key is not None):
        raise typer.BadParameter("--plan starts no job; leave out --watch, --gate and --idempotency-key")
    given = SpecOptions.of(context.params)
    with client_of(context) as client:
        body = _body(client, spec, given, settings or [])
        if plan:
            print_plan(client.plan(body), as_json=as_json)
            return
        if gate:
            gates.require_gate(client, body)
        job = client.submit(body, idempotency_key=idempotency_key)
        if gate:
            gates.announce(job)
        watch = watch or gate
        if not watch or not as_json:
            say(as_json, job, job["id"])
        if watch:
            raise typer.Exit(_watch(client, job["id"], as_json, gate))


def _body(client: Client, spec: str | None, given: SpecOptions, settings: Sequence[str]) -> Json:
    """The spec of a file, which `--continues` turns into a continuation, or the one that the options make; with
    what `--set` says."""
    if spec is not None:
        if given != SpecOptions(continues=given.continues):
            raise typer.BadParameter("give either a JSON spec or --model and --domain; --continues goes with both")
        found = read_spec(spec) | ({"continues": given.continues} if given.continues is not None else {})
        return apply(found, settings)
    if not given.domain or (given.model is None and given.continues is None):
        raise typer.BadParameter("--model (or --continues) and at least one --domain are needed, or a JSON spec")
    return build_spec(client, given.with_defaults(), settings)


def watch(context: typer.Context, job: JobId, gate: Gate = False, as_json: AsJson = False) -> None:
    """Show a job's progress until it ends. The exit code tells how: 0 succeeded, 1 failed, 3 cancelled, 4 missed
    its gate."""
    with client_of(context) as client:
        if gate:
            gates.require_gate(client, client.job(job)["spec"])
        raise typer.Exit(_watch(client, job, as_json, gate))


def list_jobs(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    method: Annotated[str | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option()] = None,
    label: Annotated[str | None, typer.Option(help="name=value")] = None,
    lineage: Annotated[str | None, typer.Option(help="A lineage's first job: its whole tree.")] = None,
    limit: Annotated[int, typer.Option(help="So many of the newest.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with client_of(context) as client:
        filters = {"state": state, "method": method, "model": model, "label": label, "lineage": lineage}
        jobs = list(islice(client.jobs(**filters, limit=min(limit, 200)), limit))
    if as_json:
        print_json(jobs)
    else:
        show.print_table(output, show.jobs_table(jobs))


def get(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Show one job."""
    with client_of(context) as client:
        found = client.job(job)
    if as_json:
        print_json(found)
    else:
        _print_job(found)


def evaluation(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Show every domain's perplexity after every stage, how much was forgotten (BWT), and what tasks gave."""
    with client_of(context) as client:
        found = client.evaluation(job)
    if as_json:
        print_json(found)
        return
    show.print_table(output, show.evaluation_table(found))
    output.print(f"BWT {show.number(found.get('bwt'))} · log BWT {show.number(found.get('log_bwt'), 4)}")
    if found.get("tasks"):
        show.print_table(output, show.tasks_table(found["tasks"]))


def _watch(client: Client, id: str, as_json: bool, gate: bool) -> Exit:
    try:
        job = watch_job(client, id, errors)
    except KeyboardInterrupt:
        errors.print(f"not watching any more; the job goes on: secateur watch {id}")
        return Exit.interrupted
    if as_json:
        print_json(job)
    else:
        _print_job(job)
    if gate:
        gates.report(client, job, errors if as_json else output)
    return exit_of(job)


def _print_job(job: Answer) -> None:
    for name, value in show.job_lines(job):
        output.print(f"{name:<12}{value}")
