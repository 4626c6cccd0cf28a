"""CLIP: an image encoder and a causal text transformer with one joint embedding.

The module tree and the names in its state dict are open_clip's ``CLIP``, so that weights pass
both ways without renaming. Dimension names: ``batch``; ``token`` (caption positions, 77 at most);
``patch``; ``width``; ``dim`` (joint embedding). Source: Radford et al. 2021.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.models.config import ClipConfig, TextTowerConfig, VisionTowerConfig
from pipeline.models.convnext import ConvNextTower
from pipeline.models.layers import LayerNorm32

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics of pictures in [0, 1] that CLIP's weights expect."""
MAX_LOGIT_SCALE = math.log(100)
"""Radford et al. 2021 §2.5: the temperature is clipped so that logits scale by at most 100."""
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


class QuickGELU(nn.Module):
    """x·sigmoid(1.702 x), the activation of OpenAI's released weights."""

    def forward(self, x: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Apply to every element."""
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    """Pre-norm transformer block; ``attn`` holds its projections as torch's own module does."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, activation: type[nn.Module]
    ) -> None:
        """A block whose feed-forward has ``width x mlp_ratio`` hidden features."""
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.ln_1 = LayerNorm32(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = LayerNorm32(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, hidden), gelu=activation(), c_proj=nn.Linear(hidden, width)
            )
        )

    def forward(
        self, x: Float[Tensor, " batch token width"], causal: bool
    ) -> Float[Tensor, " batch token width"]:
        """Attend, then transform each token."""
        x = x + self._attend(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))

    def _attend(
        self, x: Float[Tensor, " batch token width"], causal: bool
    ) -> Float[Tensor, " batch token width"]:
        # torch's forward would build a square mask and its fast path differs between modes.
        projected = F.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = (
            part.unflatten(-1, (self.attn.num_heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.attn.out_proj(attended.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """A stack of residual attention blocks."""

    def __init__(
        self,
        config: VisionTowerConfig | TextTowerConfig,
        activation: type[nn.Module],
    ) -> None:
        """As many blocks as the tower has layers."""
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(config.width, config.heads, config.mlp_ratio, activation)
            for _ in range(config.layers)
        )
        self._initialise(config.width, config.layers)

    def forward(
        self, x: Float[Tensor, " batch token width"], causal: bool
    ) -> Float[Tensor, " batch token width"]:
        """Run every block."""
        for block in self.resblocks:
            x = block(x, causal)
        return x

    def _initialise(self, width: int, layers: int) -> None:
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        for block in self.resblocks:
            assert isinstance(block, ResidualAttentionBlock)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            up, down = block.mlp.get_submodule("c_fc"), block.mlp.get_submodule("c_proj")
            assert isinstance(up, nn.Linear)
            assert isinstance(down, nn.Linear)
            nn.init.normal_(up.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(down.weight, std=residual_std)


class VisionTransformer(nn.Module):
    """Pictures → joint embeddings."""

    def __init__(
        self, config: VisionTowerConfig, embed_dim: int, activation: type[nn.Module]
    ) -> None:
        """A tower that ends in ``embed_dim`` dimensions."""
        super().__init__()
        scale = config.width**-0.5
        num_patches = (config.image_px // config.patch_px) ** 2
        self.conv1 = nn.Conv2d(3, config.width, config.patch_px, config.patch_px, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(config.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(num_patches + 1, config.width))
        self.ln_pre = LayerNorm32(config.width)
        self.transformer = Transformer(config, activation)
        self.ln_post = LayerNorm32(config.width)
        self.proj = nn.Parameter(scale * torch.randn(config.width, embed_dim))

    def forward(self, normalised: Float[Tensor, " batch 3 px px"]) -> Float[Tensor, " batch dim"]:
        """Encode pictures that have CLIP's channel statistics."""
        patches = self.conv1(normalised).flatten(2).transpose(1, 2)
        start = self.class_embedding.to(patches).expand(len(patches), 1, -1)
        x = torch.cat([start, patches], dim=1) + self.positional_embedding.to(patches)
        x = self.transformer(self.ln_pre(x), causal=False)
        return self.ln_post(x[:, 0]) @ self.proj


class ClipModel(nn.Module):
    """Both encoders and the learnt temperature."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClipConfig) -> None:
        """Both towers, freshly initialised."""
        super().__init__()
        activation = QuickGELU if config.quick_gelu else nn.GELU
        width = config.text.width
        self.config = config
        self.visual = _image_encoder(config, activation)
        self.transformer = Transformer(config.text, activation)
        self.token_embedding = nn.Embedding(config.text.vocab_size, width)
        self.positional_embedding = nn.Parameter(
            torch.randn(config.text.context_length, width) * 0.01
        )
        self.ln_final = LayerNorm32(width)
        self.text_projection = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def encode_image(self, images: Float[Tensor, " batch 3 px px"]) -> Float[Tensor, " batch dim"]:
        """Raw joint embeddings z_img, not normalised.

        Args:
            images: Pictures in [-1, 1] of the side the vision tower was made for.
        """
        return self.visual((images * 0.5 + 0.5 - self.mean) / self.std)

    def encode_text(
        self, text_tokens: Int[Tensor, " batch token"]
    ) -> tuple[Float[Tensor, " batch dim"], Float[Tensor, " batch kept width"]]:
        """Raw joint embeddings z_txt and the states of every token (after the final norm).

        On a CPU the padding that no caption of the batch reaches is not computed (``kept`` is
        the longest caption): attention is causal, so nothing changes. Elsewhere finding the
        longest would stall the device, and all positions are kept.

        Args:
            text_tokens: Start mark, caption, end mark, zeros.
        """
        ends = text_tokens.argmax(dim=-1)
        if text_tokens.device.type == "cpu":
            text_tokens = text_tokens[:, : int(ends.max()) + 1]
        positions = self.positional_embedding[: text_tokens.shape[1]]
        x = self.transformer(self.token_embedding(text_tokens) + positions, causal=True)
        states = self.ln_final(x)
        pooled = states[torch.arange(len(ends), device=ends.device), ends]
        return pooled @ self.text_projection, states

    def temperature(self) -> Float[Tensor, ""]:
        """Factor of the cosine similarities, at most 100.

        The parameter itself is held back, as in Radford et al. 2021 §2.5: clamped in the graph, it
        would have no gradient above the bound and could never come back.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        return self.logit_scale.exp()


def _image_encoder(config: ClipConfig, activation: type[nn.Module]) -> nn.Module:
    if isinstance(config.vision, VisionTowerConfig):
        return VisionTransformer(config.vision, config.embed_dim, activation)
    return ConvNextTower(config.vision, config.embed_dim)
