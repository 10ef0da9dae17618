"""What `/readyz` says of the workers' devices."""

import httpx
import pytest
from sqlalchemy.orm import Session

from app.workers import devices


@pytest.mark.parametrize(("health", "said"), [("sick", "cuInit: CUDA_ERROR_UNKNOWN (999)"), ("shared", "others")])
def test_a_gpu_that_does_not_work_degrades_the_service_and_no_more(
    api: httpx.Client, session: Session, health: str, said: str
) -> None:
    devices.note_health(session, "one", "cuda:0", "u", "ready", "")
    session.commit()
    assert api.get("/readyz").json()["checks"]["devices"] == "ok"
    devices.note_health(session, "two", "cuda:1", "v", health, said)
    session.commit()
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"]["devices"] == "failed"
    assert said not in answer.text, "the reason is for operators"
    devices.leave(session, "two")
    session.commit()
    assert api.get("/readyz").json()["checks"]["devices"] == "ok"
