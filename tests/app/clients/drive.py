"""A platform's integration, written against the generated client alone: `python drive.py URL KEY BODY FOLDER`.

BODY is a job as JSON. It runs in the environment of the generator, which knows nothing of ours.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

from made_client import AuthenticatedClient  # type: ignore[import-not-found]
from made_client.api.artifacts import download_file, get_manifest  # type: ignore[import-not-found]
from made_client.api.history import list_events  # type: ignore[import-not-found]
from made_client.api.jobs import create_job, get_job  # type: ignore[import-not-found]
from made_client.models import Awaited, Job, JobCreate, Manifest, Problem  # type: ignore[import-not-found]

url, key, body, folder = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)

refused = create_job.sync(client=client, body=JobCreate.from_dict({**json.loads(body), "model": "mdl_none"}))
assert isinstance(refused, Problem), refused
assert refused.code == "input_refused", refused

job = create_job.sync(client=client, body=JobCreate.from_dict(json.loads(body)), idempotency_key="once")
again = create_job.sync(client=client, body=JobCreate.from_dict(json.loads(body)), idempotency_key="once")
assert isinstance(job, Job), job
assert again == job
assert job.spec.method.name == "wanda"
print(job.id, flush=True)

deadline = time.monotonic() + 120
while job.finished_at is None:
    assert time.monotonic() < deadline, job
    job = get_job.sync(id=job.id, client=client, wait=5, for_=Awaited("end"))
assert job.state == "succeeded", job

events = list_events.sync(id=job.id, client=client)
types = [event.type_ for event in events.data]
assert types[0] == "created", types
assert "published" in types, types
assert [event.data.to for event in events.data if event.type_ == "transition"][-1] == "succeeded"

manifest = get_manifest.sync(id=job.id, client=client)
assert isinstance(manifest, Manifest), manifest
assert manifest.files
for file in manifest.files:
    answer = download_file.sync_detailed(id=job.id, path=file.path, client=client)
    assert hashlib.sha256(answer.content).hexdigest() == file.sha256
    target = Path(folder, file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(answer.content)
