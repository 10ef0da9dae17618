"""Which files of an artifact another job goes on from."""

import re
from typing import Final

STATISTICS: Final = "state/"
"""What the files with the accumulated statistics begin with; one a decoder block."""
_SHARD: Final = re.compile(r"model/model-(?P<number>[0-9]+)-of-(?P<count>[0-9]+)\.safetensors")


def is_statistics(path: str) -> bool:
    """Whether a file of an artifact holds accumulated statistics."""
    return path.startswith(STATISTICS)


def is_state(path: str) -> bool:
    """The same, or whether it holds a decoder block's pruned weights; all else is the dense model's, as it was.

    The shards are one a block, and one more for what is outside the blocks.
    """
    shard = _SHARD.fullmatch(path)
    return is_statistics(path) or (shard is not None and int(shard["number"]) < int(shard["count"]))
