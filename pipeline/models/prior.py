"""Diffusion prior: a causal transformer that predicts the image embedding.

Sequence: [encoded text, z_txt, timestep, noised z_img, learned query]; the output is read at the
query. Dimension names: ``batch``; ``token`` (caption positions); ``width``; ``dim`` (joint
embedding). Source: Ramesh et al. 2022 (unCLIP) §2.2.

Model space is whitened: ``z = (z_img - z_mean) / z_std`` with statistics of the training split,
stored as buffers (the form that diffusers' ``clip_mean`` and ``clip_std`` hold); or, as in the
paper (App. C), the normalised embedding times 17.2. Text conditions are dropped by giving the
empty caption.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.models.config import OwnText, PriorConfig
from pipeline.models.layers import (
    CausalBlock,
    LayerNorm32,
    TimestepEmbedding,
    causal_mask,
    padding_last,
)
from pipeline.models.text import OwnTextEncoder

NUM_EXTRA_TOKENS = 4
"""z_txt, timestep, noised z_img, query."""


class DiffusionPrior(nn.Module):
    """Predicts the clean whitened image embedding from a noised one and a caption."""

    z_mean: Tensor
    z_std: Tensor

    def __init__(self, config: PriorConfig) -> None:
        """A fresh prior; whitening is the identity until it is set."""
        super().__init__()
        width, clip, text = config.width, config.clip, config.text
        own = isinstance(text, OwnText)
        self.config = config
        self.text_encoder = OwnTextEncoder(text) if own else None
        self.text_proj = nn.Linear(text.width if own else clip.text_width, width)
        self.z_txt_proj = nn.Linear(clip.embed_dim, width)
        self.time_embed = TimestepEmbedding(width, width)
        self.z_proj = nn.Linear(clip.embed_dim, width)
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.01)
        context_length = text.context_length if own else clip.context_length
        length = context_length + NUM_EXTRA_TOKENS
        self.positions = nn.Parameter(torch.randn(1, length, width) * 0.01)
        self.blocks = nn.ModuleList(
            CausalBlock(width, config.head_width) for _ in range(config.layers)
        )
        self.norm_out = LayerNorm32(width)
        self.out = nn.Linear(width, clip.embed_dim)
        self.register_buffer("z_mean", torch.zeros(clip.embed_dim))
        self.register_buffer("z_std", torch.ones(clip.embed_dim))

    def forward(
        self,
        z_t: Float[Tensor, " batch dim"],
        t: Int[Tensor, " batch"],
        z_txt: Float[Tensor, " batch dim"],
        text_states: Float[Tensor, " batch token text_width"],
        text_mask: Bool[Tensor, " batch token"],
    ) -> Float[Tensor, " batch dim"]:
        """Predict the clean whitened z_img.

        Args:
            z_t: Noised embedding in model space.
            t: Diffusion steps.
            z_txt: Raw text embedding.
            text_states: States of CLIP's text encoder, or of the model's own where it has one; may
                be cut behind the longest caption.
            text_mask: True up to each caption's end mark.
        """
        extra = [self.z_txt_proj(z_txt), self.time_embed(t), self.z_proj(z_t)]
        query = self.query.expand(len(z_t), -1, -1)
        x = torch.cat([self.text_proj(text_states), torch.stack(extra, dim=1), query], dim=1)
        kept = text_states.shape[1]
        # Cut captions leave a gap: the extra tokens keep their own positions at the end.
        x = x + torch.cat([self.positions[:, :kept], self.positions[:, -NUM_EXTRA_TOKENS:]], dim=1)
        always = text_mask.new_ones(len(z_t), NUM_EXTRA_TOKENS)
        readable = torch.cat([text_mask, always], dim=1)
        return self.out(self.norm_out(self._transform(x, readable)))

    def _transform(
        self, x: Float[Tensor, " batch token width"], readable: Bool[Tensor, " batch token"]
    ) -> Float[Tensor, " batch width"]:
        """All blocks; the state of the query, which is the last token that is no padding."""
        positions = torch.arange(x.shape[1], device=x.device)
        if self.config.padding == "masked":
            mask = causal_mask(readable)
            query, seen = positions[-1:].expand(len(x), 1), mask[:, :, -1:]
        else:
            x, place = padding_last(x, readable)
            mask, query = None, place[:, -1:]
            seen = (positions <= query)[:, None, None]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, mask)
        return last(x, seen, query)[:, 0]  # nothing else is read of the last block

    def whiten(self, z_img: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """Raw embeddings → model space: about unit variance per dimension, or the scaled direction.

        Source of ``scaled``: Ramesh et al. 2022 (unCLIP) App. C.
        """
        if self.config.space == "scaled":
            return self.config.scale * F.normalize(z_img, dim=-1)
        return (z_img - self.z_mean) / self.z_std

    def unwhiten(self, z: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """Model space → raw embeddings.

        The scaled space knows no length: every embedding gets the root mean square of the
        training data's lengths, which its mean and deviation tell.
        """
        if self.config.space == "scaled":
            length = (self.z_mean**2 + self.z_std**2).sum().sqrt()
            return length * F.normalize(z, dim=-1)
        return z * self.z_std + self.z_mean

    def set_statistics(self, mean: Float[Tensor, " dim"], std: Float[Tensor, " dim"]) -> None:
        """Store the whitening; both become part of the weights."""
        self.z_mean.copy_(mean)
        self.z_std.copy_(std)
