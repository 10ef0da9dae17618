"""The servers that come as wheels, each in the foreground, on the loopback interface, with a password.

`start()` returns when the server answers; `stop()` returns when its processes are gone. The given port is a wish:
another one is taken when it is in use, so read `port` after the start.
"""

from app.local.errors import StartError
from app.local.postgres import PostgresServer
from app.local.seaweed import SeaweedServer
from app.local.server import Server
from app.local.valkey import ValkeyServer

__all__ = ["PostgresServer", "SeaweedServer", "Server", "StartError", "ValkeyServer"]
