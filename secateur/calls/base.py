"""What every group of calls has."""

from secateur.transport import Transport


class Calls:
    """Calls over one connection."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
