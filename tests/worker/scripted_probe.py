"""A probe that finds what a test wants: a word in the file `$CUDA_CACHE_PATH/word`, which isolation leaves open,
or for one device in `word-cuda:1`.

`ready`, `shared`, `sick`, `absent`; `other` (ready, of another UUID); `hang`, `crash`, `nonsense`.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UUID = "00000000-0000-0000-0000-0000000000a0"
OTHER = "00000000-0000-0000-0000-0000000000a1"
SECOND = "00000000-0000-0000-0000-0000000000a2"
"""Of `cuda:1`."""


def answer(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    folder, device = Path(os.environ["CUDA_CACHE_PATH"]), request["device"]
    own = folder / f"word-{device}"
    word = (own if own.exists() else folder / "word").read_text().strip()
    if word == "hang":
        time.sleep(600)
    if word == "crash":
        os.abort()
    if word == "nonsense":
        return {}
    uuid = OTHER if word == "other" else SECOND if device == "cuda:1" else UUID
    known = {"uuid": uuid, "name": "Pretend", "total_bytes": 80 * 10**9}
    health = "ready" if word == "other" else word
    said = "" if health == "ready" else f"it is {word}"
    others = 10 * 10**9 if word == "shared" else 0
    return {"health": health, "said": said, "others_bytes": others} | ({} if word == "absent" else known)
