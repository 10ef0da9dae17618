"""Tensors for tests of the packed form, and files of them."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


def half(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random numbers, exactly half of them zero."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(shape, generator=generator).to(dtype)
    found.view(-1)[torch.randperm(found.numel(), generator=generator)[: found.numel() // 2]] = 0
    return found


def every_kind() -> Tensors:
    """Tensors of every width, form and odd size."""
    return {
        "bf16": half((37, 53), torch.bfloat16),
        "f32": half((8, 16, 3), torch.float32),
        "f64": half((30,), torch.float64),
        "f8": half((16, 16), torch.float8_e4m3fn),
        "bool": torch.arange(50) % 7 == 0,
        "dense": torch.ones(5, 5, dtype=torch.bfloat16),
        "zero": torch.zeros(1000, dtype=torch.float16),
        "minus zero": torch.tensor([-0.0, 0.0, float("nan"), float("inf")] * 4, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.0),
    }


def save(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return folder / name


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
