"""Errors of a hub told apart, and what is sent to it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from app.settings import Settings
from tests.worker.intake.hub_server import Hub
from worker.intake.context import Context
from worker.intake.hub import HubFile, HubRepo, HubUnavailable, open_repo
from worker.model_files.errors import IntakeError


@pytest.fixture
def repo(hub: Hub, context: Context) -> HubRepo:
    hub.add("model", "team/model", {"config.json": b"{}", "a.txt": b"a" * 50, "b.txt": b"b", "deep/c.txt": b"c"})
    return open_repo("model", "team/model", "/source", context)


def refusal(hub: Hub, repo: HubRepo, revision: str | None = None) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        repo.resolve(revision)
    assert hub.url not in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    return caught.value


def test_a_branch_becomes_a_commit_and_a_commit_stays(hub: Hub, repo: HubRepo) -> None:
    commit = hub.repos["model", "team/model"].commit("main")
    assert repo.resolve(None) == repo.resolve("main") == commit
    assert commit is not None
    assert repo.resolve(commit) == commit


def test_a_tree_is_listed_over_all_its_pages(repo: HubRepo) -> None:
    commit = repo.resolve(None)
    tree = repo.tree(commit, recursive=True)
    sizes = {path: file.bytes for path, file in tree.items()}
    assert sizes == {"config.json": 2, "a.txt": 50, "b.txt": 1, "deep/c.txt": 1}
    assert tree["a.txt"].sha256 == hashlib.sha256(b"a" * 50).hexdigest()
    assert tree["b.txt"].sha256 is None
    assert "deep/c.txt" not in repo.tree(commit, recursive=False)


def test_a_file_is_fetched_with_the_services_token_and_no_other(
    hub: Hub, repo: HubRepo, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = repo.resolve(None)
    path = repo.download(commit, "deep/c.txt", HubFile(1), context.scratch / "files")
    assert path.read_bytes() == b"c"
    assert (hub.tokens, hub.content_tokens) == ({"Bearer hf_secret"}, {None})
    hub.tokens.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    open_repo("model", "team/model", "/source", without_token(context)).resolve(None)
    assert hub.tokens == {None}


def without_token(context: Context) -> Context:
    return replace(context, settings=context.settings.model_copy(update={"hf_token": None}))


@pytest.mark.parametrize(
    ("globs", "id", "sent"),
    [
        ("", "team/model", False),
        ("other/*, team/mod*", "team/model", True),
        ("team/other", "team/model", False),
        ("team/*", "teammate/model", False),
        ("team/*", "Team/model", False),
        ("*", "team/model", True),
    ],
)
def test_the_token_goes_to_the_repositories_that_the_operator_named(
    globs: str, id: str, sent: bool, hub: Hub, context: Context
) -> None:
    hub.add("model", id, {})
    chosen = Settings.model_validate({**context.settings.model_dump(), "hf_token_repos": globs})
    open_repo("model", id, "/source", replace(context, settings=chosen)).resolve(None)
    assert hub.tokens == {"Bearer hf_secret" if sent else None}


@pytest.mark.parametrize(
    ("id", "status", "expected"),
    [
        ("team/private", None, "hub_not_found"),
        ("team/model", None, "hub_gated"),
        ("team/model", 401, "hub_unauthorized"),
        ("team/model", 403, "hub_forbidden"),
    ],
)
def test_what_the_hub_refuses_for_want_of_a_token_says_so(
    id: str, status: int | None, expected: str, hub: Hub, repo: HubRepo, context: Context
) -> None:
    hub.add("model", "team/private", {}, token="hf_secret")
    hub.repos["model", "team/model"].gated = True
    hub.status = status
    error = refusal(hub, open_repo("model", id, "/source", without_token(context)))
    assert (error.code, error.field) == (expected, "/source/id")
    assert "sends no token" in error.message
    assert "hf_token_repos" in error.message


def test_a_missing_repository_and_one_that_may_not_be_seen_are_the_same(hub: Hub, context: Context) -> None:
    hub.add("model", "team/private", {}, token="another")
    for id in ("team/none", "team/private"):
        error = refusal(hub, open_repo("model", id, "/source", context))
        assert (error.code, error.field) == ("hub_not_found", "/source/id")


def test_a_gated_repository_is_told(hub: Hub, repo: HubRepo) -> None:
    hub.repos["model", "team/model"].gated = True
    assert refusal(hub, repo).code == "hub_gated"


def test_a_missing_revision_is_told(hub: Hub, repo: HubRepo) -> None:
    error = refusal(hub, repo, "v9")
    assert (error.code, error.field) == ("hub_revision_not_found", "/source/revision")


@pytest.mark.parametrize("revision", ["../x", "a b", "-x", "x" * 300, "a/../b"])
def test_odd_revisions_are_not_sent(revision: str, hub: Hub, repo: HubRepo) -> None:
    assert refusal(hub, repo, revision).code == "hub_revision_invalid"
    assert hub.requests == []


@pytest.mark.parametrize(
    "id", ["../../etc", "a/b/c", "http://x/y", "a//b", "", "a/..", None, 3, "x" * 100, "a b/c"]
)
def test_odd_ids_are_not_sent(id: object, hub: Hub, context: Context) -> None:
    with pytest.raises(IntakeError) as caught:
        open_repo("model", id, "/source", context)
    assert caught.value.code == "hub_id_invalid"


@pytest.mark.parametrize(
    ("status", "expected"), [(401, "hub_unauthorized"), (403, "hub_forbidden"), (404, "hub_not_found")]
)
def test_refusals_without_a_code_of_the_hubs_are_the_users(
    status: int, expected: str, hub: Hub, repo: HubRepo
) -> None:
    hub.status = status
    assert refusal(hub, repo).code == expected


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_is_a_system_error(status: int, hub: Hub, repo: HubRepo) -> None:
    hub.status = status
    with pytest.raises(HubUnavailable) as caught:
        repo.resolve(None)
    assert str(caught.value) == f"the hub answered {status}"


def test_a_hub_that_is_not_there_is_a_system_error(context: Context) -> None:
    settings = context.settings.model_copy(update={"hf_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(HubUnavailable) as caught:
        open_repo("model", "team/model", "/source", replace(context, settings=settings)).resolve(None)
    assert "127.0.0.1" not in str(caught.value)


def test_a_file_that_vanished_is_told(repo: HubRepo, context: Context) -> None:
    with pytest.raises(IntakeError) as caught:
        repo.download(repo.resolve(None), "none.txt", HubFile(1), context.scratch)
    assert caught.value.code == "hub_file_not_found"


def test_more_bytes_than_announced_are_not_taken(hub: Hub, repo: HubRepo, context: Context) -> None:
    hub.repos["model", "team/model"].extra = b"more"
    with pytest.raises(HubUnavailable, match="more than it had announced"):
        repo.download(repo.resolve(None), "a.txt", HubFile(50), context.scratch)


def test_other_bytes_than_announced_are_not_taken(hub: Hub, repo: HubRepo, context: Context) -> None:
    hub.repos["model", "team/model"].other = True
    commit = repo.resolve(None)
    with pytest.raises(HubUnavailable, match="something else"):
        repo.download(commit, "a.txt", repo.tree(commit, recursive=False)["a.txt"], context.scratch)


def test_a_transfer_stops_when_asked_to(repo: HubRepo, context: Context) -> None:
    class Stop(Exception):
        pass

    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:  # the first is before the transfer
            raise Stop

    stopping = replace(repo, context=replace(context, check=check))
    with pytest.raises(Stop):
        stopping.download(repo.resolve(None), "a.txt", HubFile(50), context.scratch)
    assert not (context.scratch / "a.txt").exists()


def test_a_file_larger_than_the_disk_is_refused_before_the_transfer(
    repo: HubRepo, context: Context, hub: Hub
) -> None:
    with pytest.raises(IntakeError) as caught:
        repo.download("0" * 40, "a.txt", HubFile(2**60), Path(context.scratch))
    assert caught.value.code == "too_large"
    assert hub.requests == []


def test_a_redirect_to_an_internal_address_is_the_users_error_and_is_not_followed(
    hub: Hub, context: Context
) -> None:
    hub.add("model", "team/model", {"config.json": b"{}"})
    stranger = replace(context, settings=context.settings.model_copy(update={"hf_hosts": ()}))
    repo = open_repo("model", "team/model", "/source", stranger)
    commit = repo.resolve(None)
    with pytest.raises(IntakeError) as caught:
        repo.download(commit, "config.json", HubFile(2), context.scratch / "files")
    assert (caught.value.code, caught.value.field) == ("hub_address_refused", "/source/id")
    assert hub.downloads() == []
    assert "localhost" not in caught.value.message
