"""ADM's U-Net, with text attention in GLIDE's form.

Dimension names: ``batch``; ``channel height width`` (pictures and feature maps); ``emb``
(conditioning vector, 4 x the first level's channels); ``context`` (tokens beside the picture);
``context_width``. Sources: Dhariwal & Nichol 2021 (ADM) App. I; Nichol et al. 2021 (GLIDE) §4.1;
BigGAN's up- and downsampling blocks (Brock et al. 2019).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.models.config import UNetConfig
from pipeline.models.layers import (
    GroupNorm32,
    TimestepEmbedding,
    merge_heads,
    split_heads,
    zero_init,
)


def halve(x: Float[Tensor, " batch channel height width"]) -> Float[Tensor, " batch channel h w"]:
    """Mean of 2 x 2 pixels."""
    return F.avg_pool2d(x, 2)


def double(x: Float[Tensor, " batch channel height width"]) -> Float[Tensor, " batch channel h w"]:
    """Every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResBlock(nn.Module):
    """Residual block; may halve or double the side before its first convolution."""

    def __init__(
        self, channels: int, out_channels: int, config: UNetConfig, resample: str = "none"
    ) -> None:
        """A block; ``resample`` is none, down or up."""
        super().__init__()
        self.scale_shift = config.scale_shift
        self.resample = {"none": nn.Identity(), "down": _Halve(), "up": _Double()}[resample]
        self.norm_1 = GroupNorm32(config.norm_groups, channels)
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        emb_out = 2 * out_channels if config.scale_shift else out_channels
        self.emb = nn.Linear(4 * config.channels, emb_out)
        self.norm_2 = GroupNorm32(config.norm_groups, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        changes = channels != out_channels
        self.skip = nn.Conv2d(channels, out_channels, 1) if changes else nn.Identity()

    def forward(
        self, x: Float[Tensor, " batch channel height width"], emb: Float[Tensor, " batch emb"]
    ) -> Float[Tensor, " batch out_channel h w"]:
        """Transform features, conditioned on ``emb`` (already through SiLU)."""
        h = self.conv_1(self.resample(F.silu(self.norm_1(x))))
        condition = self.emb(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        else:
            h = self.norm_2(h + condition)
        h = self.conv_2(self.dropout(F.silu(h)))
        return self.skip(self.resample(x)) + h


class _Halve(nn.Module):
    def forward(
        self, x: Float[Tensor, " batch channel height width"]
    ) -> Float[Tensor, " batch channel h w"]:
        return halve(x)


class _Double(nn.Module):
    def forward(
        self, x: Float[Tensor, " batch channel height width"]
    ) -> Float[Tensor, " batch channel h w"]:
        return double(x)


class AttentionBlock(nn.Module):
    """Self-attention whose keys and values are joined by those of the context tokens."""

    def __init__(self, channels: int, config: UNetConfig, context_width: int | None) -> None:
        """Attention; without ``context_width`` pixels read pixels alone."""
        super().__init__()
        self.head_width = config.head_width
        self.norm = GroupNorm32(config.norm_groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context_width, 2 * channels) if context_width else None
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(
        self,
        x: Float[Tensor, " batch channel height width"],
        context: Float[Tensor, " batch context context_width"] | None,
        context_mask: Bool[Tensor, " batch context"] | None,
    ) -> Float[Tensor, " batch channel height width"]:
        """Let every pixel read every pixel and every readable context token."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        parts = self.qkv(tokens).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.head_width) for part in parts)
        mask = None
        if self.context_kv is not None and context is not None:
            context_k, context_v = self.context_kv(context).chunk(2, dim=-1)
            k = torch.cat([split_heads(context_k, self.head_width), k], dim=2)
            v = torch.cat([split_heads(context_v, self.head_width), v], dim=2)
            mask = _key_mask(context_mask, tokens.shape[1])
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x + self.out(merge_heads(attended)).transpose(1, 2).reshape(x.shape)


def _key_mask(
    context_mask: Bool[Tensor, " batch context"] | None, num_pixels: int
) -> Bool[Tensor, " batch 1 1 key"] | None:
    """Pixels are always readable, context tokens where the mask says so."""
    if context_mask is None:
        return None
    pixels = context_mask.new_ones(len(context_mask), num_pixels)
    return torch.cat([context_mask, pixels], dim=1)[:, None, None]


class Stage(nn.Module):
    """A residual block, and attention after it where its level attends."""

    def __init__(self, block: ResBlock, attention: AttentionBlock | None = None) -> None:
        """A stage of one or two modules."""
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(
        self,
        x: Float[Tensor, " batch channel height width"],
        emb: Float[Tensor, " batch emb"],
        context: Float[Tensor, " batch context context_width"] | None,
        context_mask: Bool[Tensor, " batch context"] | None,
    ) -> Float[Tensor, " batch out_channel h w"]:
        """Run the block, then the attention."""
        x = self.block(x, emb)
        return x if self.attention is None else self.attention(x, context, context_mask)


class UNet(nn.Module):
    """Noisy picture, step and conditions → the network's output at the picture's size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: UNetConfig,
        context_width: int | None = None,
    ) -> None:
        """A U-Net; without ``context_width`` it reads no tokens."""
        super().__init__()
        self.config = config
        self.context_width = context_width
        first, area = config.channels, config.patch_px**2
        self.time_embed = TimestepEmbedding(first, 4 * first)
        self.conv_in = nn.Conv2d(in_channels * area, first, 3, padding=1)
        skips = self._build_down(first)
        self._build_mid()
        self._build_up(skips)
        self.norm_out = GroupNorm32(config.norm_groups, first * config.multipliers[0])
        width_out = first * config.multipliers[0]
        self.conv_out = zero_init(nn.Conv2d(width_out, out_channels * area, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, " batch channel height width"],
        t: Int[Tensor, " batch"],
        extra_emb: Float[Tensor, " batch emb"] | None = None,
        context: Float[Tensor, " batch context context_width"] | None = None,
        context_mask: Bool[Tensor, " batch context"] | None = None,
    ) -> Float[Tensor, " batch out_channel height width"]:
        """Run the network.

        Args:
            x: Noisy picture, perhaps with further channels; the side divides by ``patch_px`` and
                then by 2 per level.
            t: Diffusion steps.
            extra_emb: Added to the timestep embedding.
            context: Tokens that attention reads beside the picture.
            context_mask: True where a context token may be read.
        """
        emb = self.time_embed(t)
        emb = F.silu(emb if extra_emb is None else emb + extra_emb)
        patches = F.pixel_unshuffle(x, self.config.patch_px)
        # Channels last: a fifth faster on CPUs, and what bf16 kernels of GPUs want.
        h = self.conv_in(patches.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for stage in self.down:
            h = stage(h, emb, context, context_mask)
            skips.append(h)
        for stage in self.mid:
            h = stage(h, emb, context, context_mask)
        for stage, takes_skip in zip(self.up, self.takes_skip, strict=True):
            h = torch.cat([h, skips.pop()], dim=1) if takes_skip else h
            h = stage(h, emb, context, context_mask)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.config.patch_px)

    def _attention(self, level: int, channels: int) -> AttentionBlock | None:
        attends = level in self.config.attention_levels
        return AttentionBlock(channels, self.config, self.context_width) if attends else None

    def _build_down(self, width: int) -> list[int]:
        config, skips, self.down = self.config, [width], nn.ModuleList()
        for level, multiplier in enumerate(config.multipliers):
            out = config.channels * multiplier
            for _ in range(config.res_blocks):
                self.down.append(Stage(ResBlock(width, out, config), self._attention(level, out)))
                width = out
                skips.append(width)
            if level < len(config.multipliers) - 1:
                self.down.append(Stage(ResBlock(width, width, config, "down")))
                skips.append(width)
        return skips

    def _build_mid(self) -> None:
        config = self.config
        width = config.channels * config.multipliers[-1]
        attention = AttentionBlock(width, config, self.context_width)
        self.mid = nn.ModuleList(
            [
                Stage(ResBlock(width, width, config), attention if config.mid_attention else None),
                Stage(ResBlock(width, width, config)),
            ]
        )

    def _build_up(self, skips: list[int]) -> None:
        config, self.up = self.config, nn.ModuleList()
        self.takes_skip: list[bool] = []
        width = config.channels * config.multipliers[-1]
        for level in reversed(range(len(config.multipliers))):
            out = config.channels * config.multipliers[level]
            for _ in range(config.res_blocks + 1):
                block = ResBlock(width + skips.pop(), out, config)
                self.up.append(Stage(block, self._attention(level, out)))
                self.takes_skip.append(True)
                width = out
            if level:
                self.up.append(Stage(ResBlock(width, width, config, "up")))
                self.takes_skip.append(False)
