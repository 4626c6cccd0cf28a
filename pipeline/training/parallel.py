"""How a model lies on the workers."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """What this worker holds of a tensor: the same object at every call."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
