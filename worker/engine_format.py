"""The format of what the engine leaves behind after a block: files, their names, their meaning, their values."""

from typing import Final

ENGINE_FORMAT: Final = 10
"""Raise it by hand when an older checkpoint must not be continued, also when the engine would choose other rates
for the same job: blocks of both together would miss its target. It is apart from the engine, because the worker
compares it before it starts one, and must not import torch to do so."""
