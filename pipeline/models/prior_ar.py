"""Autoregressive prior: a causal transformer that predicts an embedding code by code.

Sequence: [caption, z_txt, dot product, code 1, code 2, …]; each code is predicted from all before
it, the component of largest variance first. Dimension names: ``batch``; ``token`` (caption
positions); ``dim`` (joint embedding); ``component``; ``bucket``. Source: Ramesh et al. 2022
(unCLIP) §2.2. The paper joins caption, z_txt and dot product as a prefix but leaves open how
256 caption tokens fit its context of 384: here the first ``prefix_tokens`` positions enter.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.models.codes import EmbeddingCodes
from pipeline.models.config import AutoregressivePriorConfig, OwnText
from pipeline.models.layers import (
    CausalBlock,
    KeyValues,
    LayerNorm32,
    padding_last,
    take_tokens,
)
from pipeline.models.text import OwnTextEncoder

NUM_CONDITIONS = 2
"""z_txt and the dot product, between caption and codes."""


class AutoregressivePrior(nn.Module):
    """Predicts the codes of z_img from a caption."""

    def __init__(self, config: AutoregressivePriorConfig, num_components: int) -> None:
        """A fresh prior; its codes mean nothing until their tables are set.

        Args:
            config: Sizes.
            num_components: Length of the code sequence, which the data decide.
        """
        super().__init__()
        width, clip, text = config.width, config.clip, config.text
        own = isinstance(text, OwnText)
        self.config = config
        self.codes = EmbeddingCodes(
            clip.embed_dim, num_components, config.num_buckets, config.dot_buckets
        )
        self.text_encoder = OwnTextEncoder(text) if own else None
        self.text_proj = nn.Linear(text.width if own else clip.text_width, width)
        self.z_txt_proj = nn.Linear(clip.embed_dim, width)
        self.dot_embedding = nn.Embedding(config.dot_buckets, width)
        self.code_embedding = nn.Embedding(config.num_buckets, width)
        # The last code is predicted and never read.
        length = config.prefix_tokens + NUM_CONDITIONS + num_components - 1
        self.positions = nn.Parameter(torch.randn(1, length, width) * 0.01)
        self.blocks = nn.ModuleList(
            CausalBlock(width, config.head_width) for _ in range(config.layers)
        )
        self.norm_out = LayerNorm32(width)
        self.out = nn.Linear(width, config.num_buckets)
        # Buckets are ordered: neighbours start alike, so that what is learned of one holds for all
        # around it (2.72 → 2.50 nats per code after 30,720 samples of the small web).
        for weight, std in (
            (self.dot_embedding.weight, 0.1),
            (self.code_embedding.weight, 0.1),
            (self.out.weight, width**-0.5),
        ):
            _walk(weight, std)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        codes: Int[Tensor, " batch component"],
        dot: Int[Tensor, " batch"],
        z_txt: Float[Tensor, " batch dim"],
        text_states: Float[Tensor, " batch token text_width"],
        text_mask: Bool[Tensor, " batch token"],
    ) -> Float[Tensor, " batch component bucket"]:
        """Logits of every code, given those before it.

        Args:
            codes: Codes of the embedding.
            dot: Code of z_img · z_txt.
            z_txt: Raw text embeddings.
            text_states: States of CLIP's text encoder, or of the model's own where it has one; may
                be cut behind the longest caption.
            text_mask: True up to each caption's end mark.
        """
        prefix, readable = self._prefix(dot, z_txt, text_states, text_mask)
        start = self.config.prefix_tokens + NUM_CONDITIONS
        tokens = self.code_embedding(codes[:, :-1]) + self.positions[:, start:]
        x = torch.cat([prefix, tokens], dim=1)
        readable = torch.cat([readable, readable.new_ones(tokens.shape[:2])], dim=1)
        x, place = padding_last(x, readable)
        for block in self.blocks:
            x = block(x, None)
        # Code i is read where the token before it stands; the first one at the dot product.
        predicting = take_tokens(x, place[:, -codes.shape[1] :])
        return self.out(self.norm_out(predicting))

    @torch.no_grad()
    def sample(
        self,
        uniform: Float[Tensor, " batch draw"],
        z_txt: Float[Tensor, " rows dim"],
        text_states: Float[Tensor, " rows token text_width"],
        text_mask: Bool[Tensor, " rows token"],
        *,
        temperature: float = 1.0,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, " batch dim"]:
        r"""Draw raw embeddings, remembering keys and values, one new token per code.

        With guidance the logits are :math:`l(\varnothing) + s\,(l(c) - l(\varnothing))`: Ho &
        Salimans 2022, Eq. 6, for logits as in Gafni et al. 2022 §3.4.

        Args:
            uniform: In [0, 1); the first chooses the dot product, the others the codes in turn.
            z_txt: Raw text embeddings; with guidance the rows of the captions, then as many of
                the empty one. Likewise the two that follow.
            text_states: As in ``forward``.
            text_mask: As in ``forward``.
            temperature: Divides the logits; 0 takes the likeliest code.
            guidance_scale: s; 1 is no guidance.
        """
        repeats = len(z_txt) // len(uniform)
        dot = self.codes.upper_dot_code(uniform[:, 0])
        prefix, readable = self._prefix(dot.repeat(repeats), z_txt, text_states, text_mask)
        cache, codes = self._remember(prefix), []
        mask = readable[:, None] & _triangle(readable)
        x = prefix
        for component in range(self.codes.num_components):
            logits = self._extend(x, mask[:, None], cache).float()
            code = _choose(
                _guided(logits, repeats, guidance_scale), uniform[:, 1 + component], temperature
            )
            codes.append(code)
            if component + 1 < self.codes.num_components:
                x = self._token(code.repeat(repeats), component)
                seen = readable.new_ones(len(readable), component + 1)
                mask = torch.cat([readable, seen], dim=1)[:, None]
        return self.codes.decode(torch.stack(codes, dim=1))

    def _prefix(
        self, dot: Tensor, z_txt: Tensor, text_states: Tensor, text_mask: Tensor
    ) -> tuple[Float[Tensor, " batch prefix width"], Bool[Tensor, " batch prefix"]]:
        room = self.config.prefix_tokens
        text = self.text_proj(text_states[:, :room])
        conditions = torch.stack([self.z_txt_proj(z_txt), self.dot_embedding(dot)], dim=1)
        # Cut captions leave a gap: the conditions keep their own positions.
        places = [
            self.positions[:, : text.shape[1]],
            self.positions[:, room : room + NUM_CONDITIONS],
        ]
        prefix = torch.cat([text, conditions], dim=1) + torch.cat(places, dim=1)
        always = text_mask.new_ones(len(z_txt), NUM_CONDITIONS)
        return prefix, torch.cat([text_mask[:, :room], always], dim=1)

    def _token(self, code: Tensor, component: int) -> Float[Tensor, " batch 1 width"]:
        place = self.config.prefix_tokens + NUM_CONDITIONS + component
        return self.code_embedding(code)[:, None] + self.positions[:, place : place + 1]

    def _remember(self, prefix: Tensor) -> list[KeyValues]:
        room = prefix.shape[1] + self.codes.num_components - 1
        caches = []
        for block in self.blocks:
            assert isinstance(block, CausalBlock)
            caches.append(block.attention.remember(len(prefix), room, prefix))
        return caches

    def _extend(
        self, x: Tensor, mask: Tensor, cache: list[KeyValues]
    ) -> Float[Tensor, " batch bucket"]:
        for block, known in zip(self.blocks, cache, strict=True):
            assert isinstance(block, CausalBlock)
            x = block.extend(x, mask, known)
        return self.out(self.norm_out(x[:, -1]))


@torch.no_grad()
def _walk(weight: Float[Tensor, " bucket width"], std: float) -> None:
    """Fill with a random walk over the buckets, centred, of this standard deviation."""
    steps = torch.randn_like(weight).cumsum(dim=0)
    centred = steps - steps.mean(dim=0)
    weight.copy_(std * centred / centred.std())


def _triangle(readable: Bool[Tensor, " batch token"]) -> Bool[Tensor, " 1 token token"]:
    length = readable.shape[1]
    return torch.ones(1, length, length, dtype=torch.bool, device=readable.device).tril()


def _guided(
    logits: Float[Tensor, " rows bucket"], repeats: int, guidance_scale: float
) -> Float[Tensor, " batch bucket"]:
    if repeats == 1:
        return logits
    with_caption, without = logits.chunk(2)
    return without + guidance_scale * (with_caption - without)


def _choose(
    logits: Float[Tensor, " batch bucket"], uniform: Float[Tensor, " batch"], temperature: float
) -> Int[Tensor, " batch"]:
    """The bucket at which the cumulative probability passes ``uniform``."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    # float64: in float32 the last of 1,024 sums may stay below the largest draw.
    cumulative = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    index = torch.searchsorted(cumulative, uniform.double()[:, None].contiguous(), right=True)
    return index[:, 0].clamp(max=logits.shape[-1] - 1)
