"""Ids by how they begin, and by name, against the real service."""

import json
from collections.abc import Callable, Iterator

import pytest
import typer

from secateur import Client
from secateur.cli import ids
from secateur.cli.connection import Connection
from tests import command_line
from tests.app.conftest import Inputs, MakeKey, application, inputs, make_key, project, service  # noqa: F401 - fixtures

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def client(service: str, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:  # noqa: F811
    """And the environment that names the same server to the command line."""
    key = make_key()
    monkeypatch.setenv("SECATEUR_URL", service)
    monkeypatch.setenv("SECATEUR_API_KEY", key)
    with Client(service, key, retry_seconds=0) as client:
        yield client


@pytest.fixture
def run(client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: command_line.call(arguments, monkeypatch, capsys)


def test_an_id_is_known_by_how_it_begins(client: Client, run: Run, inputs: Inputs) -> None:  # noqa: F811
    one, other = (client.submit(inputs.body())["id"] for _ in range(2))
    common = next(end for end in range(36, 0, -1) if one[:end] == other[:end])
    for text in (one[: common + 1], one.removeprefix("job_"), one[4 : common + 1], one):
        code, out, _ = run("get", text, "--json")
        assert (code, json.loads(out)["id"]) == (0, one)
    code, out, err = run("get", one[:common])
    assert (code, out) == (2, "")
    assert one in err.replace("│", "").replace("\n", "").replace(" ", "")


def test_what_begins_no_id_is_the_servers_to_refuse(client: Client, run: Run) -> None:
    for text in ("job_0000", "ffff", "nonsense"):
        code, _, err = run("get", text)
        assert (code, "404" in err) == (1, True)


def test_models_and_datasets_are_known_by_name(client: Client, run: Run, inputs: Inputs) -> None:  # noqa: F811
    name = client.model(inputs.model)["name"]
    named = str(client.dataset(inputs.first)["name"])
    with_their_names = [each["id"] for each in client.datasets() if each["name"] == named]
    for model, dataset, meant in (
        (name, named, with_their_names[0]),
        (inputs.model[:-3], inputs.first, inputs.first),
    ):
        code, out, err = run("submit", "--model", model, "--domain", f"law={dataset}:{inputs.second}", "--json")
        assert code == 0, err
        job = json.loads(out)
        assert job["model"] == inputs.model
        assert job["spec"]["domains"][0]["dataset"] == meant
        assert job["spec"]["domains"][0]["evaluation"] == inputs.second


def test_the_shell_is_offered_ids_and_names(client: Client, inputs: Inputs) -> None:  # noqa: F811
    job = client.submit(inputs.body())["id"]
    context = typer.Context(typer.main.get_command(_app()))
    context.obj = Connection(None, None, None)
    assert ids.completion("job")(context, "job_") == [(job, "queued copal law code")]
    assert ids.completion("job")(context, "xyz") == []
    assert {inputs.first, inputs.second, "text"} <= {text for text, _ in ids.completion("ds")(context, "")}
    context.obj = Connection("http://127.0.0.1:9", "sctr_key", None)
    assert ids.completion("job")(context, "job_") == []


def _app() -> typer.Typer:
    from secateur.cli import app

    return app
