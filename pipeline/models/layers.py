"""Blocks that more than one network uses.

Dimension names: ``batch``; ``token`` (sequence position); ``key`` (positions attended to);
``width`` (features). Norms compute in float32 whatever the dtype of the activations.
"""

import functools
import math
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ModuleType = TypeVar("ModuleType", bound=nn.Module)


class LayerNorm32(nn.LayerNorm):
    """Layer norm in float32; the result has the input's dtype."""

    def forward(self, input: Float[Tensor, " *batch width"]) -> Float[Tensor, " *batch width"]:
        """Normalise the last dimension."""
        if input.dtype == torch.float32:
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(
            input.dtype
        )


class GroupNorm32(nn.GroupNorm):
    """Group norm in float32; the result has the input's dtype (ADM's ``GroupNorm32``)."""

    def forward(
        self, input: Float[Tensor, " batch width *space"]
    ) -> Float[Tensor, " batch width *space"]:
        """Normalise each group of channels."""
        if input.dtype == torch.float32:
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


def zero_init(module: ModuleType) -> ModuleType:
    """Set every parameter to zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_features(t: Int[Tensor, " batch"], width: int) -> Float[Tensor, " batch width"]:
    r"""Sinusoidal features, cosines first: :math:`\cos(t\,\omega_i), \sin(t\,\omega_i)`.

    with :math:`\omega_i = 10000^{-i/(width/2)}`. Source: Vaswani et al. 2017 §3.5 in ADM's form.

    Args:
        t: Forward steps, 0 to T - 1.
        width: Even number of features.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Sinusoidal features through two linear layers."""

    def __init__(self, features: int, width: int) -> None:
        """From ``features`` sinusoids to ``width`` features."""
        super().__init__()
        self.features = features
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch width"]:
        """Embed each sample's step."""
        features = timestep_features(t, self.features).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(features)))


def split_heads(
    x: Float[Tensor, " batch token width"], head_width: int
) -> Float[Tensor, " batch head token head_width"]:
    """Cut the features into attention heads."""
    return x.unflatten(-1, (-1, head_width)).transpose(1, 2)


def merge_heads(
    x: Float[Tensor, " batch head token head_width"],
) -> Float[Tensor, " batch token width"]:
    """Undo ``split_heads``."""
    return x.transpose(1, 2).flatten(2)


@dataclass
class KeyValues:
    """Keys and values of one attention layer, filled from the left while tokens are sampled."""

    keys: Float[Tensor, " batch head room head_width"]
    values: Float[Tensor, " batch head room head_width"]
    length: int = 0

    def append(
        self,
        keys: Float[Tensor, " batch head token head_width"],
        values: Float[Tensor, " batch head token head_width"],
    ) -> tuple[
        Float[Tensor, " batch head key head_width"], Float[Tensor, " batch head key head_width"]
    ]:
        """Add tokens; returns all there are."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class CausalSelfAttention(nn.Module):
    """Causal attention with an optional key padding mask; projections are fused."""

    def __init__(self, width: int, head_width: int) -> None:
        """Attention with ``width / head_width`` heads."""
        super().__init__()
        self.head_width = head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, " batch token width"],
        mask: Bool[Tensor, " batch 1 query token"] | None,
        reader: Float[Tensor, " batch query width"] | None = None,
    ) -> Float[Tensor, " batch query width"]:
        """Attend; ``mask`` is True where a key may be read and includes causality.

        Without a mask the causal kernel runs, which materialises no square matrix. A ``reader``
        attends in the tokens' place.
        """
        if reader is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            width = x.shape[-1]
            of_q, of_kv = self.qkv.weight.split([width, 2 * width])
            q_bias, kv_bias = self.qkv.bias.split([width, 2 * width])
            q = F.linear(reader, of_q, q_bias)
            k, v = F.linear(x, of_kv, kv_bias).chunk(2, dim=-1)
        q, k, v = (split_heads(part, self.head_width) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.out(merge_heads(attended))

    def extend(
        self,
        x: Float[Tensor, " batch token width"],
        mask: Bool[Tensor, " batch 1 token key"],
        known: KeyValues,
    ) -> Float[Tensor, " batch token width"]:
        """Attend from new tokens to all tokens so far, which ``known`` remembers."""
        q, k, v = (split_heads(part, self.head_width) for part in self.qkv(x).chunk(3, dim=-1))
        k, v = known.append(k, v)
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))

    def remember(self, batch: int, room: int, like: Tensor) -> KeyValues:
        """Room for the keys and values of ``room`` tokens, with the dtype and device of another."""
        width = self.out.in_features
        shape = (batch, width // self.head_width, room, self.head_width)
        return KeyValues(like.new_empty(shape), like.new_empty(shape))


class CausalBlock(nn.Module):
    """Pre-norm transformer block with causal attention and a GELU feed-forward of 4 x width."""

    def __init__(self, width: int, head_width: int) -> None:
        """A block with ``width / head_width`` heads."""
        super().__init__()
        self.norm_1 = LayerNorm32(width)
        self.attention = CausalSelfAttention(width, head_width)
        self.norm_2 = LayerNorm32(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(
        self,
        x: Float[Tensor, " batch token width"],
        mask: Bool[Tensor, " batch 1 query token"] | None,
        wanted: Int[Tensor, " batch query"] | None = None,
    ) -> Float[Tensor, " batch query width"]:
        """Attend, then transform each token.

        Args:
            x: Tokens.
            mask: True where a query may read a token; None for all that stand before it.
            wanted: Positions of the only tokens whose new states are read: no others are computed.
        """
        normed = self.norm_1(x)
        if wanted is None:
            x = x + self.attention(normed, mask)
        else:
            x = take_tokens(x, wanted) + self.attention(normed, mask, take_tokens(normed, wanted))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))

    def extend(
        self,
        x: Float[Tensor, " batch token width"],
        mask: Bool[Tensor, " batch 1 token key"],
        known: KeyValues,
    ) -> Float[Tensor, " batch token width"]:
        """The same for new tokens behind those that ``known`` remembers."""
        x = x + self.attention.extend(self.norm_1(x), mask, known)
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


def causal_mask(readable: Bool[Tensor, " batch token"]) -> Bool[Tensor, " batch 1 token token"]:
    """Causal mask that also hides padded keys; a token always reads itself.

    Args:
        readable: False for padding.
    """
    length = readable.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=readable.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=readable.device)
    return ((causal & readable[:, None, :]) | itself)[:, None]


def padding_last(
    x: Float[Tensor, " batch token width"], readable: Bool[Tensor, " batch token"]
) -> tuple[Float[Tensor, " batch token width"], Int[Tensor, " batch token"]]:
    """Move padding behind all other tokens, whose order stays.

    No token then comes after padding, and causal attention alone hides it: the flash kernels run,
    and no square mask is built.

    Args:
        x: Tokens that hold their positions already.
        readable: False for padding.

    Returns:
        The moved tokens, and where each token of ``x`` stands among them.
    """
    order = torch.argsort((~readable).to(torch.uint8), dim=1, stable=True)
    place = torch.argsort(order, dim=1)
    return take_tokens(x, order), place


def take_tokens(
    x: Float[Tensor, " batch token width"], index: Int[Tensor, " batch chosen"]
) -> Float[Tensor, " batch chosen width"]:
    """Tokens at each sample's own positions."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


def keep_only_inputs(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    """Activation checkpointing: blocks of these kinds keep their inputs and compute again.

    Backward costs one more forward pass, the memory of a block falls to its inputs, and dropout
    draws the same again. Names in the state dict stay. Source: Chen et al. 2016, §3.

    Returns:
        Blocks that were changed.
    """
    blocks = [module for module in model.modules() if isinstance(module, kinds)]
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return len(blocks)


def token_mask(text_tokens: Int[Tensor, " batch token"]) -> Bool[Tensor, " batch token"]:
    """True from the start mark to the end mark, False for the padding after it.

    The end mark has the highest id of CLIP's vocabulary, hence the arg max.
    """
    end = text_tokens.argmax(dim=-1, keepdim=True)
    return torch.arange(text_tokens.shape[1], device=text_tokens.device)[None] <= end
