"""What the real engine keeps on request, from the job's spec to artifact and records.

Slow: a script would write the files that it was told to.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load
from sqlalchemy.orm import Session

from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import JobMatrix, JobStage
from app.tables.sensitivity import JobDomainSensitivity, JobSensitivity
from tests import tiny
from tests.worker.harness import Watch, make_tiny_jobs
from worker.attempt import run_jobs
from worker.attempt.card import PATH as CARD

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("keep", [True, False])
def test_the_artifact_has_every_stages_scores_when_they_are_asked_for(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path, keep: bool
) -> None:
    jobs = make_tiny_jobs(session, store, tiny.make_tiny_llama(tmp_path / "tiny"))
    watch = Watch(session, jobs.make(output={"keep_sensitivities": keep}))
    assert run_jobs(settings, "here") == 1
    manifest = watch.row.manifest
    assert manifest is not None
    files = {file["path"]: file["key"] for file in manifest["files"] if file["path"].startswith("sensitivity/")}
    names = [
        f"sensitivity/stage-{stage:02d}/block-{block:04d}.safetensors" for stage in (0, 1) for block in (0, 1)
    ]
    assert sorted(files) == (names if keep else [])
    rows = session.query(JobSensitivity).filter_by(job_id=watch.id)
    for stage in (0, 1) if keep else ():
        scores = {}
        for path, key in files.items():
            if path.startswith(f"sensitivity/stage-{stage:02d}"):
                scores |= load(b"".join(store.stream(key)))
        totals = {row.matrix: row.total for row in rows.filter_by(stage=stage)}
        assert {name: float(each.double().sum()) for name, each in scores.items()} == pytest.approx(
            totals, rel=1e-3
        )


def test_the_artifact_has_every_stages_model_when_they_are_asked_for(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    """Also of stages whose checkpoint a resume needs no more; each is the model of a job that ends there."""
    jobs = make_tiny_jobs(session, store, tiny.make_tiny_llama(tmp_path / "tiny"), domains=3)
    whole = Watch(session, jobs.make(output={"keep_stages": True}))
    assert run_jobs(settings, "here") == 1
    files = _files(whole)
    for stage in (0, 1):
        shorter = Watch(session, replace(jobs, datasets=jobs.datasets[: stage + 1]).make())
        assert run_jobs(settings, "here") == 1
        model = {path: sha256 for path, sha256 in _files(shorter).items() if path.startswith("model/")}
        del model[CARD]
        assert {path: files.get(f"stage-{stage:02d}/{path}") for path in model} == model
        assert not [path for path in _files(shorter) if path.startswith("stage-")], "nobody asked for more"
    assert (
        files["stage-00/model/model-00001-of-00003.safetensors"] != files["model/model-00001-of-00003.safetensors"]
    )
    assert not [path for path in files if path.startswith("stage-02")], "the last one's is at model/"
    assert [path for path in files if path.endswith("README.md")] == [CARD], "which has the only card"


def _files(watch: Watch) -> dict[str, str]:
    manifest = watch.row.manifest
    assert manifest is not None
    return {file["path"]: file["sha256"] for file in manifest["files"]}


def test_sensitivities_are_there_by_the_domain_alone_too(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    """Of the first stage they are the same; later ones add up in the sums alone."""
    jobs = make_tiny_jobs(session, store, tiny.make_tiny_llama(tmp_path / "tiny"))
    Watch(session, jobs.make())
    assert run_jobs(settings, "here") == 1
    found = {
        table: {(row.stage, row.matrix): (row.domain, row.total) for row in session.query(table)}
        for table in (JobSensitivity, JobDomainSensitivity)
    }
    sums, own = found[JobSensitivity], found[JobDomainSensitivity]
    assert sums.keys() == own.keys()
    assert {stage for stage, _ in own} == {0, 1}
    for (stage, matrix), (domain, total) in own.items():
        assert domain == sums[stage, matrix][0] == f"d{stage}"
        assert total == sums[stage, matrix][1] if stage == 0 else total < sums[stage, matrix][1]


def test_records_have_what_becomes_of_masks_and_of_earlier_domains(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    jobs = make_tiny_jobs(session, store, tiny.make_tiny_llama(tmp_path / "tiny"))
    watch = Watch(session, jobs.make(output={"keep_domain_statistics": True}))
    assert run_jobs(settings, "here") == 1
    records = session.query(JobMatrix).filter_by(job_id=watch.id)
    for record in records.filter_by(stage=0):
        assert set(record.domain_errors or ()) == {"d0"}
        assert record.mask_overlap is record.revived is record.newly_pruned is None
    for record in records.filter_by(stage=1):
        assert set(record.domain_errors or ()) == {"d0", "d1"}
        assert record.mask_overlap is not None
        assert 0 < record.mask_overlap <= 1
        assert record.mask_changed == pytest.approx((record.revived or 0) + (record.newly_pruned or 0))
    overlaps = [
        row.mask_overlap for row in session.query(JobStage).filter_by(job_id=watch.id).order_by(JobStage.stage)
    ]
    assert overlaps[0] is None
    assert overlaps[1] is not None
    assert 0 < overlaps[1] <= 1
