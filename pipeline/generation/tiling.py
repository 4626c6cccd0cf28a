"""An upsampler over a picture larger than memory allows: overlapping tiles that fade into another.

Dimension names: ``batch`` (pictures), ``side`` (pixels of the large picture), ``low`` (of the small
one), ``tile`` (pixels of a tile). The network has no attention, so a pixel depends on its
surroundings alone, but for one thing: group norms average over what the network is shown. A tile
gives them the statistics of a tile, which is what training on crops gave them.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.sampling import Denoiser
from pipeline.errors import ConfigError
from pipeline.models.upsampler import Upsampler


def whole(model: Upsampler, low_res: Float[Tensor, " batch 3 low low"]) -> Denoiser:
    """The upsampler on whole pictures, its condition bound."""
    return lambda x_t, t: model(x_t, t, low_res)


def tiled(
    model: Upsampler, low_res: Float[Tensor, " batch 3 low low"], tile_px: int, overlap_px: int
) -> Denoiser:
    """The upsampler tile by tile, its condition bound.

    Args:
        model: The network.
        low_res: Small pictures.
        tile_px: Side of a tile of the large picture.
        overlap_px: Pixels that neighbours share at least; the outer quarter of them counts for
            nothing, over the middle half one tile fades into the next.

    Raises:
        ConfigError: The tile does not lie on the network's grid.
    """
    scale = model.config.high_px // model.config.low_px
    grid = math.lcm(scale, model.config.unet.grid_px)
    if tile_px % grid:
        raise ConfigError(
            f"tile_px={tile_px} is not a multiple of {grid}, the grid on which this upsampler "
            f"halves and enlarges; use {tile_px // grid * grid or grid}"
        )

    def denoise(
        x_t: Float[Tensor, " batch 3 side side"], t: Tensor
    ) -> Float[Tensor, " batch 3 side side"]:
        side = x_t.shape[-1]
        total, weights = torch.zeros_like(x_t), x_t.new_zeros(side, side)
        for top, left in _places(side, tile_px, overlap_px, grid):
            rows, columns = slice(top, top + tile_px), slice(left, left + tile_px)
            low = _low_part(low_res, top // scale, left // scale, tile_px // scale)
            weight = torch.outer(
                _fade(top, tile_px, side, overlap_px), _fade(left, tile_px, side, overlap_px)
            ).to(x_t)
            total[..., rows, columns] += weight * model(x_t[..., rows, columns], t, low)
            weights[rows, columns] += weight
        return total / weights

    return denoise


def _low_part(
    low_res: Float[Tensor, " batch 3 low low"], top: int, left: int, size: int
) -> Float[Tensor, " batch 3 part part"]:
    return low_res[..., top : top + size, left : left + size]


def _places(side: int, tile_px: int, overlap_px: int, grid: int) -> Iterator[tuple[int, int]]:
    """Upper left corners, all on the grid; the last tile ends with the picture."""
    step = max(grid, (tile_px - overlap_px) // grid * grid)
    starts = [*range(0, side - tile_px, step), side - tile_px]
    for top in starts:
        for left in starts:
            yield top, left


def _fade(start: int, tile_px: int, side: int, overlap_px: int) -> Float[Tensor, " tile"]:
    """Weight of a tile's rows: 0 at an inner edge, 1 inside, and 1 up to the picture's border."""
    margin = overlap_px // 4
    from_edge = torch.arange(tile_px) + 0.5 - margin
    rising = (from_edge / (overlap_px - 2 * margin)).clamp(0, 1)
    weight = torch.ones(tile_px)
    if start > 0:
        weight = weight * rising
    if start + tile_px < side:
        weight = weight * rising.flip(0)
    return weight
