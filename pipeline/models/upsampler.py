"""Upsampler: small picture → large picture; no attention, no text.

Dimension names: ``batch``; ``px`` (side of the large picture or crop); ``low`` (side of the small
one). Source: Ramesh et al. 2022 (unCLIP) §2.1; ADM's upsampler (Dhariwal & Nichol 2021, App. I):
the small picture, enlarged, joins the noisy one as three more channels. The output is
the network's alone, without adding the small picture to it, so that it can be exported.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.models.config import UpsamplerConfig
from pipeline.models.unet import UNet


class Upsampler(nn.Module):
    """ADM U-Net conditioned on a small picture; runs at any size its levels divide."""

    def __init__(self, config: UpsamplerConfig) -> None:
        """A fresh upsampler."""
        super().__init__()
        self.config = config
        self.unet = UNet(6, 3, config.unet)

    def forward(
        self,
        x_t: Float[Tensor, " batch 3 px px"],
        t: Int[Tensor, " batch"],
        low_res: Float[Tensor, " batch 3 low low"],
    ) -> Float[Tensor, " batch 3 px px"]:
        """Predict from a noisy picture.

        Args:
            x_t: Noisy large picture or crop.
            t: Diffusion steps.
            low_res: The small picture or the same crop of it, in [-1, 1].
        """
        resized = F.interpolate(
            low_res,
            x_t.shape[-2:],
            mode=self.config.resize,
            align_corners=False,
            antialias=self.config.resize == "bicubic",  # its other cubic, as Karlo takes
        )
        return self.unet(torch.cat([x_t, resized], dim=1), t)
