"""ConvNeXt: CLIP's image encoder as a convolutional network.

The module tree and the names in its state dict are those of open_clip's ``TimmModel`` around
timm's ``ConvNeXt``, so that weights pass both ways without renaming. Dimension names: ``batch``;
``width`` (channels of a stage; ``before``, of the stage before it); ``row column``; ``px``;
``dim`` (joint embedding).
Source: Liu et al. 2022 (A ConvNet for the 2020s) §2, Fig. 4. Weights start as torch's layers do, by
their fan-in: from the paper's normal of 0.02, made for wide networks, one of 24 to 192 channels
took four times the samples to the same loss.
"""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.config import ConvNextTowerConfig
from pipeline.models.layers import LayerNorm32

KERNEL_PX = 7
"""Side of a depthwise kernel, places (§2.5)."""


class ChannelNorm(LayerNorm32):
    """Layer norm over the channels of each place."""

    def forward(
        self, input: Float[Tensor, " batch width row column"]
    ) -> Float[Tensor, " batch width row column"]:
        """Normalise dimension 1."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, layer norm and feed-forward, scaled and added to what came in."""

    def __init__(self, width: int, config: ConvNextTowerConfig) -> None:
        """A block with ``4 x width`` hidden features."""
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, KERNEL_PX, padding=KERNEL_PX // 2, groups=width)
        self.norm = LayerNorm32(width, config.norm_eps)
        self.mlp = _feed_forward(width, 4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(
        self, x: Float[Tensor, " batch width row column"]
    ) -> Float[Tensor, " batch width row column"]:
        """Mix places, then the features of each place."""
        mixed = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.mlp(mixed)).permute(0, 3, 1, 2)


class ConvNextStage(nn.Module):
    """Blocks of one width; all but the first stage halve rows and columns before them."""

    def __init__(self, index: int, config: ConvNextTowerConfig) -> None:
        """The stage number ``index``."""
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        width = config.widths[index]
        if index:
            before = config.widths[index - 1]
            halved = nn.Conv2d(before, width, 2, 2)
            self.downsample = nn.Sequential(ChannelNorm(before, config.norm_eps), halved)
        blocks = (ConvNextBlock(width, config) for _ in range(config.depths[index]))
        self.blocks = nn.Sequential(*blocks)

    def forward(
        self, x: Float[Tensor, " batch before row_before column_before"]
    ) -> Float[Tensor, " batch width row column"]:
        """Shrink, then run every block."""
        return self.blocks(self.downsample(x))


class ConvNextTrunk(nn.Module):
    """Pictures → features of the last stage, averaged over all places and normalised."""

    def __init__(self, config: ConvNextTowerConfig) -> None:
        """Patches, stages, norm."""
        super().__init__()
        widths, eps = config.widths, config.norm_eps
        patches = nn.Conv2d(3, widths[0], config.patch_px, config.patch_px)
        self.stem = nn.Sequential(patches, ChannelNorm(widths[0], eps))
        stages = (ConvNextStage(index, config) for index in range(len(widths)))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(OrderedDict(norm=LayerNorm32(widths[-1], eps)))

    def forward(self, normalised: Float[Tensor, " batch 3 px px"]) -> Float[Tensor, " batch width"]:
        """Features of pictures that have CLIP's channel statistics."""
        return self.head(self.stages(self.stem(normalised)).mean(dim=(2, 3)))


class ConvNextTower(nn.Module):
    """Pictures → joint embeddings."""

    def __init__(self, config: ConvNextTowerConfig, embed_dim: int) -> None:
        """A tower that ends in ``embed_dim`` dimensions."""
        super().__init__()
        self.trunk = ConvNextTrunk(config)
        last = config.widths[-1]
        linear = OrderedDict[str, nn.Module](proj=nn.Linear(last, embed_dim, bias=False))
        mlp = OrderedDict[str, nn.Module](
            mlp=_feed_forward(last, 2 * embed_dim, embed_dim, last_bias=False)
        )
        self.head = nn.Sequential(linear if config.head == "linear" else mlp)

    def forward(self, normalised: Float[Tensor, " batch 3 px px"]) -> Float[Tensor, " batch dim"]:
        """Encode pictures that have CLIP's channel statistics."""
        return self.head(self.trunk(normalised))


def _feed_forward(width: int, hidden: int, out: int, *, last_bias: bool = True) -> nn.Sequential:
    up, down = nn.Linear(width, hidden), nn.Linear(hidden, out, bias=last_bias)
    return nn.Sequential(OrderedDict(fc1=up, act=nn.GELU(), fc2=down))
