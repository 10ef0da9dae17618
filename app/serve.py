"""The API's process: `python -m app.serve --host 127.0.0.1 --port 8000`."""

import argparse
import asyncio
import gc
import socket
from functools import partial
from typing import Final

import uvicorn
from fastapi import FastAPI

from app.connections.gate import Gate
from app.connections.limits import Patience, raise_file_limit
from app.connections.protocol import Connection
from app.kit.calls import CALLS
from app.kit.process import process
from app.main import create_app
from app.metrics.http import show_metrics
from app.settings import get_settings

UPLOAD_SHARE: Final = 0.6
"""Of the time to stop: what has not arrived by then is refused, so that the answer still reaches its caller."""


class Server(uvicorn.Server):
    """Stops without a lost request: those that wait are answered at once with what there is, uploads that cannot
    end in time get a 503, downloads go on for as long as the settings say."""

    def __init__(self, app: FastAPI, host: str, port: int, patience: Patience | None = None) -> None:
        self._app = app
        patience, settings = patience or Patience(), app.state.backend.settings
        self.gate = Gate(settings.connections, settings.connections_per_address, patience)
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            loop="uvloop",
            http=partial(Connection, self.gate),  # type: ignore[arg-type]
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=patience.keep_alive,  # type: ignore[arg-type]
            timeout_graceful_shutdown=settings.stop_seconds,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As soon as a signal has asked for the end."""
        state = self._app.state
        state.backend.watcher.stop()
        seconds = UPLOAD_SHARE * state.backend.settings.stop_seconds
        asyncio.get_running_loop().call_later(seconds, state.receiving.end)
        await super().shutdown(sockets)


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m app.serve", description="The HTTP service.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    raise_file_limit()
    settings = get_settings()
    with process("api", settings):
        app = create_app(settings)
        app.openapi()  # a second's work, which no caller is to wait for
        gc.collect()
        gc.freeze()  # modules and routes are not looked through again and again while callers wait
        show_metrics(settings, CALLS)
        Server(app, given.host, given.port).run()


if __name__ == "__main__":
    main()
