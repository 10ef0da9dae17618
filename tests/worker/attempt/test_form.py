"""The forms in which the real engine's models are delivered: what the artifact has, and what becomes of it again.

Slow: that a packed model is the dense job's to the byte shows only when both jobs have run.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.dispatch.housekeeping import reap_jobs
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job
from app.tables.states import State
from secateur.digests import file_sha256
from secateur.packed import Base, unpack_folder
from secateur.packed.format import PackedFile, read_packed
from tests import tiny
from tests.jobs import JobMaker
from tests.worker.harness import Watch, make_tiny_jobs, process, wait_until
from worker.attempt import run_jobs
from worker.attempt.card import PATH as CARD
from worker.attempt.engine_process import COMMAND
from worker.pruning.verify import main as verify

BLOCKS = 2
FOLDERS = ("model", "stage-00/model", "targets/0.7/model")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.make_tiny_llama(tmp_path / "tiny", blocks=BLOCKS, hidden=48)


@pytest.fixture
def jobs(session: Session, store: ObjectStore, model: Path) -> JobMaker:
    return make_tiny_jobs(session, store, model)


def files(watch: Watch) -> dict[str, dict[str, Any]]:
    assert watch.row.manifest is not None, watch.row.failure
    return {file["path"]: file for file in watch.row.manifest["files"]}


def plain(watch: Watch) -> dict[str, str]:
    """Digests of the models' files, without the card and what says the spec."""
    return {path: file["sha256"] for path, file in files(watch).items() if "model/" in path and path != CARD}


def download(watch: Watch, store: ObjectStore, folder: Path) -> Path:
    for path, file in files(watch).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        store.download(file["key"], folder / path)
    return folder


def unpacked(artifact: Path, folder: Path, base: Base | None = None) -> dict[str, str]:
    """Digests of what all of an artifact's models are unpacked to."""
    (artifact / CARD).unlink(missing_ok=True)
    found = {}
    for name in FOLDERS:
        if (artifact / name).is_dir():
            unpack_folder(artifact / name, folder / name, base)
            found |= {f"{name}/{each.name}": file_sha256(each) for each in (folder / name).iterdir()}
    return found


def packed_files(artifact: Path) -> list[PackedFile]:
    return [read_packed(path) for path in artifact.rglob("packed-*.safetensors")]


def test_packed_models_are_the_dense_jobs_whatever_became_of_the_first_attempt(
    jobs: JobMaker,
    session: Session,
    store: ObjectStore,
    settings: Settings,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """The second attempt is on another host, which has nothing of the first domain's model but in the store."""
    method = {"name": "copal", "weight_update": "admm", "admm": {"iterations": 200}}
    asked = {"method": method, "sparsity": {"target": 0.5, "further": [0.7]}}
    watch = Watch(session, jobs.make(**asked, output={"keep_stages": True, "form": "packed"}))
    driver = [COMMAND[0], "-m", "tests.worker.driver", *COMMAND]
    with process(driver, environment | {"SECATEUR_LEASE_SECONDS": "8"}, tmp_path / "log") as worker:
        wait_until(lambda: watch.blocks() > BLOCKS, 300)
        worker.kill()
    wait_until(lambda: reap_jobs(settings) > 0 or watch.state is State.queued)
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()
    dense = Watch(session, jobs.make(**asked, output={"keep_stages": True}))
    assert run_jobs(settings.model_copy(update={"work_dir": tmp_path / "another host"}), "second") == 2
    assert watch.row.attempts == 2

    assert {path for path in files(watch) if path.endswith(".safetensors") and "/packed-" not in path} == {
        f"state/block-{block:04d}.safetensors" for block in range(BLOCKS)
    }
    artifact = download(watch, store, tmp_path / "artifact")
    assert verify([str(artifact)]) == verify([str(artifact / "targets/0.7")]) == 0
    assert unpacked(artifact, tmp_path / "again") == plain(dense)
    assert {each.base for each in packed_files(artifact)} == {""}
    provenance = [(each.row.manifest or {})["provenance"] for each in (watch, dense)]
    assert [each["form"] for each in provenance] == ["packed", "dense"]
    assert not any("masks_of" in each for each in provenance)
    sizes = [
        sum(file["bytes"] for path, file in files(each).items() if "model/" in path) for each in (watch, dense)
    ]
    assert sizes[0] < sizes[1]


def test_a_lineage_goes_on_from_masks(
    jobs: JobMaker, session: Session, store: ObjectStore, settings: Settings, model: Path, tmp_path: Path
) -> None:
    """In mode sequential the parent's weights are what is pruned, so that they must be unpacked before."""
    texts, jobs.datasets = jobs.datasets, jobs.datasets[:1]
    method = {"name": "wanda", "mode": "sequential"}
    parents = [Watch(session, jobs.make(method=method, output={"form": form})) for form in ("dense", "masks")]
    assert run_jobs(settings, "first") == 2
    children = [Watch(session, jobs.go_on(parent.id, texts[1])) for parent in parents]
    assert run_jobs(settings, "months later") == 2
    assert [child.row.spec["output"]["form"] for child in children] == ["dense", "masks"]

    artifact = download(children[1], store, tmp_path / "artifact")
    card, report = (artifact / CARD).read_text(), json.loads((artifact / "report.json").read_text())
    provenance = (children[1].row.manifest or {})["provenance"]
    assert "--base DENSE" in card
    assert provenance["model"]["digest"] in card
    assert report["output"]["form"] == provenance["form"] == "masks"
    assert provenance["masks_of"] == f"model:{provenance['model']['digest']}"
    packed = packed_files(artifact)
    assert {each.base for each in packed} == {provenance["masks_of"]}
    assert {part.rpartition(".")[2] for each in packed for part in each.parts} == {"bitmask"}
    assert verify([str(artifact), "--base", str(model)]) == 0
    assert verify([str(artifact)]) == 2, "which needs the base"
    assert unpacked(artifact, tmp_path / "again", Base.open(model)) == plain(children[0])
