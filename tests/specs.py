"""Parts of specs, written shortly."""

from typing import Any

from secateur.spec.method import METHODS, Mask, Method, MethodName, WeightUpdate, read_method


def make_method(
    name: str, weight_update: WeightUpdate | None = None, mask: Mask | None = None, **fields: Any
) -> Method:
    """A method; what is None is as by default, and settings of a solver that it does not use are left out."""
    asked = {"name": name, "weight_update": weight_update, "mask": mask, **fields}
    unused = {"admm", "alps", "sparsegpt"} - METHODS[MethodName(name)].model_fields.keys()
    if name != MethodName.admm and weight_update is not WeightUpdate.admm:
        unused.add("admm")
    return read_method({key: value for key, value in asked.items() if value is not None and key not in unused})


def changed(method: Method, **fields: Any) -> Method:
    """The method with other values of some fields."""
    return make_method(**{**dict(method), **fields})
