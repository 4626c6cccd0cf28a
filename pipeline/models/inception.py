"""The Inception network whose features the published Fréchet distances (FID) compare.

It is TensorFlow's of 2015-12-05, as torch-fidelity and pytorch-fid converted it: torchvision's
``Inception3`` with other pooling beside the convolutions and 1,008 classes, which are not used.
Dimension names: ``batch``, ``side`` (pixels), ``dim`` (2,048). Source: Szegedy et al. 2015; Heusel
et al. 2017.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import inception

from pipeline.errors import CheckpointError, ConfigError

SIDE_PX, DIM, NUM_CLASSES = 299, 2048, 1008
_UNUSED = ("fc.", "AuxLogits.")


class _OwnPool:
    """Replaces the last branch: means count no padding, as TensorFlow's do."""

    branch_pool: nn.Module
    pool: Callable[[Tensor], Tensor] = staticmethod(
        partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
    )

    def _forward(self, x: Tensor) -> list[Tensor]:
        others: Any = super()
        return [*others._forward(x)[:-1], self.branch_pool(self.pool(x))]


class _A(_OwnPool, inception.InceptionA):
    pass


class _C(_OwnPool, inception.InceptionC):
    pass


class _E(_OwnPool, inception.InceptionE):
    pass


class _LastE(_E):
    """The conversion keeps a slip of the original: its last block takes maxima."""

    pool = staticmethod(partial(F.max_pool2d, kernel_size=3, stride=1, padding=1))


class FidInception(nn.Module):
    """Pictures → 2,048 features of the last mean."""

    def __init__(self) -> None:
        """An untrained network."""
        super().__init__()
        conv, b, d, aux = (
            inception.BasicConv2d,
            inception.InceptionB,
            inception.InceptionD,
            inception.InceptionAux,
        )
        self.network = inception.Inception3(
            NUM_CLASSES,
            aux_logits=False,
            inception_blocks=[conv, _A, b, _C, d, _E, aux],
            init_weights=False,
        )
        self.network.Mixed_7c = _LastE(DIM)
        self.network.fc = nn.Identity()  # type: ignore[assignment]

    def forward(self, pictures: UInt8[Tensor, " batch 3 side side"]) -> Float[Tensor, " batch dim"]:
        """Features of pictures of any side, enlarged or shrunk as TensorFlow 1 does."""
        return self.network((resized(pictures.float(), SIDE_PX) - 128) / 128)


def resized(
    pictures: Float[Tensor, " batch 3 side side"], side_px: int
) -> Float[Tensor, " batch 3 larger larger"]:
    """Bilinear without smoothing, from places ``i · side / side_px``: TensorFlow 1's rule."""
    side = pictures.shape[-1]
    places = torch.arange(side_px, device=pictures.device) * (side / side_px)
    low = places.floor().long()
    high = (low + 1).clamp(max=side - 1)
    share = (places - low).to(pictures.dtype)
    rows = torch.lerp(pictures[..., low, :], pictures[..., high, :], share[:, None])
    return torch.lerp(rows[..., low], rows[..., high], share)


def load_inception(weights_path: str | Path) -> FidInception:
    """The network with converted weights, in inference mode.

    Args:
        weights_path: ``weights-inception-2015-12-05-6726825d.pth`` (torch-fidelity),
            ``pt_inception-2015-12-05-6726825d.pth`` (pytorch-fid), or the same as safetensors.

    Raises:
        ConfigError: No such file.
        CheckpointError: Other weights, such as torchvision's own.
    """
    path = Path(weights_path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights file; nothing is downloaded")
    state = _read(path)
    classes = state.get("fc.weight", torch.empty(0)).shape
    if tuple(classes) != (NUM_CLASSES, DIM):
        raise CheckpointError(
            f"{path}: fc.weight is {list(classes)}, the Inception of Fréchet distances has "
            f"[{NUM_CLASSES}, {DIM}]; take torch-fidelity's or pytorch-fid's conversion of it"
        )
    model = FidInception()
    wanted = {name: t for name, t in state.items() if not name.startswith(_UNUSED)}
    found = model.network.load_state_dict(wanted, strict=False)
    missing = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or found.unexpected_keys:
        wrong = [*missing, *found.unexpected_keys]
        raise CheckpointError(f"{path}: {len(wrong)} names differ: {', '.join(wrong[:4])}")
    return model.eval().requires_grad_(requires_grad=False)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path}: no file of tensors: {error}") from error
