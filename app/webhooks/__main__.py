"""The process that sends webhooks: `python -m app.webhooks`. Run as many copies as you like."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Final

from app.db.engine import get_session_factory
from app.kit.process import process
from app.kit.turns import note_turn
from app.settings import Settings, get_settings
from app.webhooks.posting import TOTAL_SECONDS, Poster
from app.webhooks.sender import Sender

log = logging.getLogger("app.webhooks")

DRAIN_SECONDS: Final = TOTAL_SECONDS + 5
"""What is under way may end before the process does; it would only be sent again."""


def main() -> None:
    """Send until asked to stop."""
    settings = get_settings()
    with process("webhooks", settings):
        sender = Sender(settings, get_session_factory(), Poster(settings.webhook_networks))
        asyncio.run(_serve(settings, sender))
    # A thread may still ask a name server that never answers.
    sys.stdout.flush()
    os._exit(0)


async def _serve(settings: Settings, sender: Sender) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    log.info("sending at most %d deliveries at once", settings.webhook_concurrency)
    while not stopping.is_set():
        begun = 0
        try:
            begun = await sender.turn()
            note_turn(settings.health_dir, "webhooks")
        except Exception as error:
            log.exception("webhooks: this turn failed (%s)", type(error).__name__)
        if not begun:
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), settings.dispatch_seconds)
    with suppress(TimeoutError):
        await asyncio.wait_for(sender.drain(), DRAIN_SECONDS)
    await sender.close()


if __name__ == "__main__":
    main()
