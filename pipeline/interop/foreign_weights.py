"""Other people's weights files, read without running anything that lies in them."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import CheckpointError


@dataclass(frozen=True)
class Imported:
    """A model as our weights files hold it."""

    task: dict[str, Any]
    """``type``, ``model``, ``diffusion`` and what else is known of its training."""
    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    """Networks beside it that have no place among our models."""


def read_tensors(path: Path) -> object:
    """What a weights file holds: tensors by name, or whatever plain containers of tensors it has.

    ``.safetensors``, or anything that ``torch.save`` wrote as long as it is tensors alone.

    Raises:
        CheckpointError: Damaged, or more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is no file of tensors alone, and nothing else is opened: {told}; save its "
            "state dict as safetensors"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name; where a training saved them under ``state_dict``, those.

    Raises:
        CheckpointError: Damaged, more than tensors, or not named.
    """
    found = read_tensors(path)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise CheckpointError(f"{path} holds no tensors by name")
    return found
