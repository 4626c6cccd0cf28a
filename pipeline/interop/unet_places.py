"""The stages of our U-Net in the order of ADM's, for tables of other layouts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.models.config import UNetConfig


@dataclass(frozen=True)
class Place:
    """One stage: a residual block, and attention behind it where its level attends."""

    path: str
    """Ours, such as ``unet.down.3``."""
    side: Literal["down", "up"]
    level: int
    """0 is full resolution."""
    index: int
    """Number of the block within its level."""
    resamples: bool
    """The block that halves or doubles, last of its level."""
    attends: bool


def places(config: UNetConfig) -> Iterator[Place]:
    """All stages but the two in the middle, downwards and then upwards."""
    last = len(config.multipliers) - 1
    for side in ("down", "up"):
        num, number = config.res_blocks + (side == "up"), 0
        levels = range(last + 1) if side == "down" else range(last, -1, -1)
        for level in levels:
            resamples = level < last if side == "down" else level > 0
            for index in range(num + resamples):
                is_resampling = index == num
                attends = level in config.attention_levels and not is_resampling
                path = f"unet.{side}.{number}"
                yield Place(path, side, level, index, is_resampling, attends)
                number += 1
