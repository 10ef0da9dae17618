"""What must hold whatever was broken: of objects, events, attempts and processes."""

import hashlib
import re

from app.storage import ObjectStore

CONTENT = re.compile(r"/([0-9a-f]{64})$")
"""Keys that end with the digest of their content, whatever folder they are in."""


def half_written(store: ObjectStore) -> list[str]:
    """Keys of objects whose bytes are not what their names say."""
    found = []
    for key, size in store.list("jobs"):
        named = CONTENT.search(key)
        data = store.get(key)
        if len(data) != size or (named and hashlib.sha256(data).hexdigest() != named[1]):
            found.append(key)
    return found
