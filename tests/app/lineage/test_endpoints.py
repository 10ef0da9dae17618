"""The tree of jobs that continue one another."""

import httpx
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.tables.jobs import JobEvaluation
from tests.app.conftest import Inputs
from tests.app.jobs.test_read import fill
from tests.app.lineage.lineages import domain, publish, submit


def grow(api: httpx.Client, inputs: Inputs, session: Session) -> dict[str, str]:
    """root (law, code) → a → (b, c); a stranger beside them."""
    found = {"root": submit(api, inputs.body())}
    for name, parent in (("a", "root"), ("b", "a"), ("c", "a")):
        publish(session, found[parent])
        found[name] = submit(api, {"continues": found[parent], "domains": [domain(name, inputs.first)]})
    found["other"] = submit(api, inputs.body())
    return found


def test_the_path_and_the_tree(
    api: httpx.Client, stranger: httpx.Client, inputs: Inputs, session: Session
) -> None:
    jobs = grow(api, inputs, session)
    found = api.get(f"/v1/jobs/{jobs['b']}/lineage").json()
    assert (found["object"], found["job"], found["root"], found["total"]) == (
        "lineage",
        jobs["b"],
        jobs["root"],
        4,
    )
    assert [each["id"] for each in found["path"]] == [jobs["root"], jobs["a"], jobs["b"]]
    stages = [stage for each in found["path"] for stage in each["stages"]]
    assert [(stage["lineage_stage"], stage["stage"], stage["domain"]) for stage in stages] == [
        (0, 0, "law"),
        (1, 1, "code"),
        (2, 0, "a"),
        (3, 0, "b"),
    ]
    tree = {each["id"]: each for each in found["jobs"]}
    assert list(tree) == [jobs[name] for name in ("root", "a", "b", "c")]
    assert [each["continues"] for each in tree.values()] == [None, jobs["root"], jobs["a"], jobs["a"]]
    assert [each["first_stage"] for each in tree.values()] == [0, 2, 3, 3]
    assert [each["domains"] for each in tree.values()] == [["law", "code"], ["a"], ["b"], ["c"]]
    assert [each["manifest_digest"] is not None for each in tree.values()] == [True, True, False, False]
    for name in ("root", "a", "c"):
        assert api.get(f"/v1/jobs/{jobs[name]}/lineage").json()["jobs"] == found["jobs"]
    assert stranger.get(f"/v1/jobs/{jobs['b']}/lineage").status_code == 404


def test_a_job_by_itself_is_a_lineage(api: httpx.Client, job: str) -> None:
    found = api.get(f"/v1/jobs/{job}/lineage").json()
    assert (found["root"], found["total"], [each["id"] for each in found["path"]]) == (job, 1, [job])


def test_jobs_are_listed_by_lineage_and_by_parent(
    api: httpx.Client, stranger: httpx.Client, inputs: Inputs, session: Session
) -> None:
    jobs = grow(api, inputs, session)
    for query, expected in [
        ({"lineage": jobs["root"]}, ["c", "b", "a", "root"]),
        ({"lineage": jobs["a"]}, ["a"]),
        ({"lineage": jobs["other"]}, ["other"]),
        ({"continues": jobs["a"]}, ["c", "b"]),
        ({"continues": jobs["root"]}, ["a"]),
        ({"continues": jobs["b"]}, []),
        ({"lineage": jobs["root"], "state": "queued"}, ["c", "b"]),
    ]:
        data = api.get("/v1/jobs", params=query).json()["data"]
        assert [each["id"] for each in data] == [jobs[name] for name in expected], query
        assert stranger.get("/v1/jobs", params=query).json()["data"] == []


def test_the_history_of_sensitivities_is_the_lineages_where_that_is_asked_for(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    parent = submit(api, inputs.body())
    fill(session, parent)
    publish(session, parent)
    child = submit(api, {"continues": parent, "domains": [domain("sales", inputs.first)]})
    session.execute(delete(JobEvaluation).where(JobEvaluation.job_id == child))  # `fill` brings its own
    fill(session, child)

    def places(**query: str) -> list[tuple[str, int, int]]:
        rows = api.get(f"/v1/jobs/{child}/sensitivity", params=query).json()["data"]
        return sorted({(row["job"], row["stage"], row["lineage_stage"]) for row in rows})

    assert places() == [(child, 0, 2)]
    assert places(lineage="true") == sorted([(parent, 0, 0), (child, 0, 2)])
    assert places(lineage="true", stage="2") == [(child, 0, 2)]
    assert places(lineage="true", stage="0") == [(parent, 0, 0)]
    assert places(stage="0") == [(child, 0, 2)]
