"""Which model types the installed transformers can load as causal language models, alone or beside other parts.

Importing transformers' own tables would import torch, so they are read from the source as literals.
"""

import ast
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

_FILE = Path("models", "auto", "modeling_auto.py")


def causal_models() -> Mapping[str, frozenset[str]]:
    """model_type → names of the classes that AutoModelForCausalLM may use for it."""
    return _table("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


def wrapped_models() -> Mapping[str, frozenset[str]]:
    """model_type → names of the classes in which a causal language model reads text beside images."""
    return _table("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")


def headless_models() -> Mapping[str, frozenset[str]]:
    """model_type → names of the classes without a head: checkpoints of models with tied heads may be saved so."""
    return _table("MODEL_MAPPING_NAMES")


@lru_cache
def _table(name: str) -> Mapping[str, frozenset[str]]:
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("transformers is not installed")
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / _FILE).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(_is_named(target, name) for target in node.targets):
            return _pairs(name, node.value)
    raise RuntimeError(f"this version of transformers has no {name}")


def _is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _pairs(name: str, node: ast.expr) -> dict[str, frozenset[str]]:
    if not isinstance(node, ast.Call) or len(node.args) != 1:
        raise RuntimeError(f"{name} is not the call of one list that it was")
    table: dict[str, frozenset[str]] = {}
    for model_type, classes in ast.literal_eval(node.args[0]):
        names = (classes,) if isinstance(classes, str) else classes
        table[model_type] = frozenset(names)
    return table
