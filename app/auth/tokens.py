"""The text of an API key: `sctr_`, 40 random characters, 6 characters of checksum.

The prefix and the checksum let secret scanners (and us, without a look at the database) tell a key from noise.
"""

import hashlib
import hmac
import secrets
import string
import zlib
from typing import Final

PREFIX: Final = "sctr_"
_ALPHABET: Final = string.digits + string.ascii_letters
_RANDOM: Final = 40
"""238 bits."""
_CHECK: Final = 6
HINT: Final = len(PREFIX) + 6


def new_token() -> str:
    """A fresh key."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return f"{PREFIX}{body}{_checksum(body)}"


def is_token(text: str) -> bool:
    """Whether the text is complete and unmistyped; it may still belong to nobody."""
    body, check = text[len(PREFIX) : -_CHECK], text[-_CHECK:]
    if not text.startswith(PREFIX) or len(body) != _RANDOM or not set(body) <= set(_ALPHABET):
        return False
    return check == _checksum(body)


def token_digest(token: str, secret: str) -> bytes:
    """HMAC-SHA256 under the service's pepper: what the database keeps."""
    return hmac.new(secret.encode(), token.encode(), hashlib.sha256).digest()


def _checksum(body: str) -> str:
    """CRC-32 in base 62."""
    number, text = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return text
