"""Captions as the models read them.

Dimension names: ``batch`` (captions), ``dim`` (joint embedding or an own encoder's width),
``token`` (caption).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.models.clip import ClipModel
from pipeline.models.layers import token_mask
from pipeline.models.text import OwnTextEncoder, own_tokens
from pipeline.models.tokenizer import tokenizer


@dataclass(frozen=True)
class TextConditions:
    """What prior and decoder read of captions."""

    texts: tuple[str, ...]
    z_txt: Float[Tensor, " batch dim"]
    text_states: Float[Tensor, " batch token width"]
    text_mask: Bool[Tensor, " batch token"]

    def take(self, rows: Sequence[int]) -> "TextConditions":
        """Some rows, in the order given."""
        chosen = list(rows)
        return TextConditions(
            tuple(self.texts[row] for row in chosen),
            self.z_txt[chosen],
            self.text_states[chosen],
            self.text_mask[chosen],
        )


def clip_conditions(clip: ClipModel, texts: Sequence[str], device: torch.device) -> TextConditions:
    """Captions through CLIP: text embedding, states and mask; the empty caption is accepted."""
    length = clip.config.text.context_length
    tokens = torch.from_numpy(tokenizer()(texts))[:, :length].to(device)
    z_txt, states = clip.encode_text(tokens)
    return TextConditions(tuple(texts), z_txt, states, token_mask(tokens)[:, : states.shape[1]])


def prior_conditions(conditions: TextConditions, encoder: OwnTextEncoder | None) -> TextConditions:
    """With a prior's own encoder, its states instead of CLIP's; z_txt stays CLIP's."""
    if encoder is None:
        return conditions
    _, states, mask = _encoded(conditions, encoder)
    return replace(conditions, text_states=states, text_mask=mask)


def decoder_conditions(
    conditions: TextConditions, encoder: OwnTextEncoder | None
) -> TextConditions:
    """With a decoder's own encoder, its states and its state at the end mark in z_txt's place."""
    if encoder is None:
        return conditions
    pooled, states, mask = _encoded(conditions, encoder)
    return TextConditions(conditions.texts, pooled, states, mask)


def _encoded(conditions: TextConditions, encoder: OwnTextEncoder) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.from_numpy(own_tokens(conditions.texts, encoder.config))
    return encoder(tokens.to(conditions.z_txt.device))
