"""Prefixed UUIDv7 identifiers: sortable by time of creation, made in Python, opaque to callers."""

import os
import time
import uuid
from enum import StrEnum


class Prefix(StrEnum):
    """What an id names; the prefix is part of the id everywhere, also in the database."""

    project = "prj"
    key = "key"
    dataset = "ds"
    model = "mdl"
    job = "job"
    task = "tsk"
    plan = "pln"
    webhook = "whk"
    delivery = "msg"
    audit = "aud"


def new_id(prefix: Prefix) -> str:
    """A fresh id, for example `job_0198c0ffee…`: 48 bits of milliseconds, then 74 random bits (RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    tail = int.from_bytes(os.urandom(10))
    value = (milliseconds & (2**48 - 1)) << 80 | tail
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{prefix.value}_{uuid.UUID(int=value).hex}"
