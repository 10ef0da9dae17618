"""Errors of the local stack whose text is for people."""


class LocalError(Exception):
    """Base of them."""


class StartError(LocalError):
    """A child did not come up; the message ends with the tail of its log."""


class StateError(LocalError):
    """The state folder cannot be used; the message says why."""


class IdentityError(LocalError):
    """No unprivileged way to run a server was found; the message says what to do."""
