"""The same promises from a folder and from an S3 server."""

from pathlib import Path

import httpx
import pytest

from app.local.servers import SeaweedServer
from app.settings import Settings
from app.storage import ObjectMissing, ObjectStore, open_store
from app.storage import store as store_module
from tests.conftest import BUCKET


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> ObjectStore:
    """Each kind of store, empty."""
    if request.param == "folder":
        return open_store(settings)
    seaweed: SeaweedServer = request.getfixturevalue("seaweed")
    return open_store(s3_settings(settings, seaweed, tmp_path.name))


def s3_settings(settings: Settings, seaweed: SeaweedServer, prefix: str, **more: object) -> Settings:
    """Settings whose store is a prefix of the S3 server."""
    fields = {
        "store_url": f"s3://{BUCKET}/{prefix}",
        "s3_endpoint": seaweed.url,
        "s3_access_key_id": seaweed.access_key,
        "s3_secret_access_key": seaweed.secret_key,
    }
    return Settings.model_validate(settings.model_dump() | fields | more)


def test_an_object_comes_back_whole_and_in_ranges(any_store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    source = tmp_path / "source"
    source.write_bytes(data)
    any_store.put_file("jobs/a/objects/one", source)
    assert any_store.head("jobs/a/objects/one") == len(data)
    assert any_store.get("jobs/a/objects/one") == data
    assert b"".join(any_store.stream("jobs/a/objects/one", 1000, 1_500_000)) == data[1000:1_500_000]
    any_store.download("jobs/a/objects/one", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_a_missing_object_is_told_apart(any_store: ObjectStore) -> None:
    assert any_store.head("nothing") is None
    with pytest.raises(ObjectMissing):
        any_store.get("nothing")
    with pytest.raises(ObjectMissing):
        list(any_store.stream("nothing"))
    any_store.delete(["nothing"])


def test_listing_sees_only_its_prefix_and_deletion_removes(any_store: ObjectStore) -> None:
    for key in ("p/one", "p/deep/two", "q/three"):
        any_store.put_bytes(key, key.encode())
    assert sorted(any_store.list("p")) == [("p/deep/two", 10), ("p/one", 5)]
    any_store.delete(["p/one"])
    assert sorted(any_store.list("p")) == [("p/deep/two", 10)]


def test_an_empty_object_streams_nothing(any_store: ObjectStore) -> None:
    any_store.put_bytes("empty", b"")
    assert any_store.head("empty") == 0
    assert list(any_store.stream("empty")) == []


def test_a_presigned_url_downloads_without_a_key(
    settings: Settings, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    signing = open_store(s3_settings(settings, seaweed, tmp_path.name, presign_downloads=True))
    signing.put_bytes("one", b"signed")
    url = signing.presign("one", 60)
    assert url is not None
    assert httpx.get(url, trust_env=False).content == b"signed"
    assert httpx.get(url.split("?")[0], trust_env=False).status_code == 403


def test_a_folder_never_presigns(store: ObjectStore) -> None:
    assert store.presign("one", 60) is None


def test_copies_are_whole_whatever_their_size(any_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store does not copy at once goes through this process."""
    data = bytes(range(256)) * 4096
    any_store.put_bytes("a/one", data)
    any_store.copy("a/one", "b/small")
    monkeypatch.setattr(store_module, "MOST_COPIED", 1000)
    any_store.copy("a/one", "b/large")
    assert any_store.get("b/small") == any_store.get("b/large") == data
    with pytest.raises(ObjectMissing):
        any_store.copy("a/none", "b/none")
