"""The format of what the engine leaves behind after a block: files, their names, their meaning."""

from typing import Final

ENGINE_FORMAT: Final = 3
"""Raise it by hand when an older checkpoint must not be continued. It is apart from the engine, because the worker
compares it before it starts one, and must not import torch to do so."""
