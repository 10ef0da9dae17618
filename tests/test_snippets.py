"""Every snippet of the documentation is run by a test, or it is said here why it cannot be."""

from typing import Final

from tests.snippets import ROOT, pages, snippets

README: Final = "tests/service/test_readme.py"
PLATFORMS: Final = "tests/platforms/test_orchestrator.py"
RUN: Final = {
    "README.md#A first model/2": README,
    "README.md#Over HTTP": README,
    "README.md#Months later": README,
    "README.md#The engine alone": "tests/worker/pruning/test_as_a_library.py",
    "README.md#The engine alone/2": "tests/service/test_whole_job.py",
    "docs/api.md#Projects and keys": "tests/app/test_documented_calls.py",
    "docs/api.md#Streams": "tests/app/test_documented_calls.py",
    "docs/api.md#A receiver": "tests/test_documented_receiver.py",
    "docs/client.md#The client, and pictures of what jobs did": "tests/secateur/test_figures.py",
    "docs/client.md#The client, and pictures of what jobs did/2": "tests/secateur/test_figures.py",
    "docs/client.md#Pictures": "tests/secateur/test_figures.py",
    "docs/migration.md#The same job/2": "tests/worker/pruning/test_as_a_library.py",
    "docs/packed.md#On disk": "tests/secateur/packed/test_packed.py",
    "docs/packed.md#Masks alone": "tests/secateur/packed/test_packed.py",
    "docs/packed.md#In transformers": "tests/secateur/packed/test_packed.py",
    "docs/platforms.md#A gate in CI": "tests/platforms/test_gate.py",
    "docs/platforms.md#MLflow": "tests/platforms/mlflow/test_mlflow.py",
    "docs/platforms.md#MLflow/2": "tests/platforms/mlflow/test_mlflow.py",
    "docs/platforms.md#An orchestrator": PLATFORMS,
    "docs/platforms.md#An orchestrator/2": PLATFORMS,
    "docs/platforms.md#An orchestrator/3": PLATFORMS,
    "docs/platforms.md#A hub": "tests/platforms/test_hub.py",
}
"""Place of a snippet → the file of the test that runs it."""
_SETS_UP: Final = "sets this machine up and starts everything: what the tests themselves were started by"
NOT_RUN: Final = {
    "README.md#A first model": _SETS_UP,
    "README.md#Work on it": _SETS_UP,
    "README.md#From the command line": "prunes a model of real size several times, on the reader's texts; each "
    "command and option is checked by tests/secateur/test_documented_commands.py, and those that read are run "
    "against a finished job by tests/service/test_whole_job.py",
    "docs/api.md#Make a client": "asks a server at an address of the reader's; tests/app/clients runs the same "
    "programs, in versions that it pins, on the document in a file",
    "docs/migration.md#The same job": "is another tool's program; benchmarks/peers.py runs it in an environment "
    "of its own",
    "docs/migration.md#The same job/3": "prunes a model of real size; its options are checked by "
    "tests/secateur/test_documented_commands.py",
    "docs/api.md#Where messages may go": "starts the whole service; what the settings open is in "
    "tests/app/webhooks/test_receiver_url.py",
}
"""Place of a snippet → why no test runs it."""


def test_every_snippet_is_run_or_has_a_reason_why_not() -> None:
    found = {each.place for page in pages() for each in snippets(page)}
    known = RUN.keys() | NOT_RUN.keys()
    assert not found - known, (
        "new snippets: let a test run them, and name it in RUN (tests/snippets.py finds them)"
    )
    assert not known - found, "snippets that are gone or were renamed: take them out here"
    assert not RUN.keys() & NOT_RUN.keys()


def test_a_test_that_runs_a_snippet_names_its_page() -> None:
    for place, test in RUN.items():
        page = place.partition("#")[0].removeprefix("docs/")
        name = page.removesuffix(".md") if page == "README.md" else page
        assert name in (ROOT / test).read_text(), f"{test} does not name {page}"
