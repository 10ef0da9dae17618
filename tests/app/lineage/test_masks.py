"""When a job may deliver masks: only where somebody has the dense weights that they are of."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.tables.models import Model
from tests.app.conftest import Inputs
from tests.app.lineage.lineages import domain, publish, submit

MASKS: dict[str, Any] = {"method": {"name": "wanda"}, "output": {"form": "masks"}}


def refusal(api: httpx.Client, body: dict[str, Any], path: str = "/v1/jobs") -> str:
    refused = api.post(path, json=body)
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert error["pointer"] == "/output/form"
    return str(error["detail"])


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
def test_a_model_of_a_gguf_file_has_no_owner_of_its_weights(
    api: httpx.Client, inputs: Inputs, session: Session, path: str
) -> None:
    session.execute(update(Model).values(source={"type": "gguf", "path": "x.gguf", "dtype": "bfloat16"}))
    session.commit()
    assert "GGUF" in refusal(api, inputs.body(**MASKS), path)
    submit(api, inputs.body(method={"name": "wanda"}, output={"form": "packed"}))


def test_a_sequential_lineage_whose_weights_were_changed_has_no_masks(
    api: httpx.Client, inputs: Inputs, session: Session, third: str
) -> None:
    for name, may in (("magnitude", True), ("admm", False)):
        parent = submit(api, inputs.body(method={"name": name, "mode": "sequential"}))
        publish(session, parent)
        body = {"continues": parent, "domains": [domain("sales", third)], **MASKS}
        if may:
            assert submit(api, body)
        else:
            assert "choose `packed`" in refusal(api, body)


def test_a_continuation_that_changes_weights_does_not_go_on_with_masks(
    api: httpx.Client, inputs: Inputs, session: Session, third: str
) -> None:
    parent = submit(api, inputs.body(method={"name": "magnitude", "mode": "sequential"}, output=MASKS["output"]))
    publish(session, parent)
    body = {"continues": parent, "domains": [domain("sales", third)], "method": {"name": "admm"}}
    assert "`method.name` admm changes them" in refusal(api, body)
    assert submit(api, body | {"output": {"form": "packed"}})
