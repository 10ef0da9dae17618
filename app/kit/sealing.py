"""Secrets at rest: AES-256-GCM under keys that are derived from the service's secret, one a purpose.

What is sealed for one place cannot be opened at another: the place is authenticated with it.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION: Final = b"\x01"
_NONCE: Final = 12


class Unreadable(Exception):
    """Sealed under another secret, for another place, or damaged. Carries nothing of the content."""


def seal(secret: str, purpose: str, place: str, data: bytes) -> bytes:
    """The data, readable only with the same secret, purpose and place. Twice the same gives two texts."""
    nonce = os.urandom(_NONCE)
    return _VERSION + nonce + _cipher(secret, purpose).encrypt(nonce, data, place.encode())


def unseal(secret: str, purpose: str, place: str, sealed: bytes) -> bytes:
    """What was sealed. Raises Unreadable."""
    version, nonce, text = sealed[:1], sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
    if version != _VERSION or len(nonce) != _NONCE:
        raise Unreadable
    try:
        return _cipher(secret, purpose).decrypt(nonce, text, place.encode())
    except InvalidTag:
        raise Unreadable from None


def _cipher(secret: str, purpose: str) -> AESGCM:
    key = HKDF(SHA256(), length=32, salt=None, info=f"secateur {purpose}".encode()).derive(secret.encode())
    return AESGCM(key)
