"""What held-out samples say of a model beyond the mean of their losses, judged all together.

Dimension names: ``row`` (held-out samples); ``dim`` (joint embedding); ``token``.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

NUM_DRAWN = 64
"""Held-out samples for which a prior draws, at most."""
DRAW_STEPS = 10
"""Network evaluations of a diffusion prior's draw."""


@runtime_checkable
class Judged(Protocol):
    """A task whose model is also judged by what it makes of held-out samples."""

    @property
    def num_judged(self) -> int | None:
        """Held-out samples on which it is judged, the first ones; None takes all of validation."""
        ...

    def made(
        self, model: nn.Module, batch: dict[str, Tensor], seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """What is judged, a row per sample; random draws come from the samples' seeds alone."""
        ...

    def judge(self, made: dict[str, Tensor]) -> dict[str, float]:
        """Metrics of all rows."""
        ...


def draw_cosines(
    drawn: Float[Tensor, " row dim"],
    z_img: Float[Tensor, " row dim"],
    z_txt: Float[Tensor, " row dim"],
) -> dict[str, float]:
    """Mean cosines of a prior's draws, and of what they are measured against.

    A prior that has learned comes closer to ``z_img`` than ``z_txt`` does, and far closer than to
    the picture of another caption; one that only learned what all pictures share is equally close
    to both.

    Args:
        drawn: Draws for captions, raw.
        z_img: Of the captions' own pictures; the next row's is the other caption's.
        z_txt: Of the captions.
    """
    pairs = {
        "draw_cosine_to_z_img": (drawn, z_img),
        "draw_cosine_to_other_z_img": (drawn, z_img.roll(-1, dims=0)),
        "draw_cosine_to_z_txt": (drawn, z_txt),
        "z_txt_cosine_to_z_img": (z_txt, z_img),
    }
    return {name: float(F.cosine_similarity(*pair).mean()) for name, pair in pairs.items()}


def retrieval(
    z_img: Float[Tensor, " row dim"],
    z_txt: Float[Tensor, " row dim"],
    text_tokens: Int[Tensor, " row token"],
) -> dict[str, float]:
    """Text to picture over a gallery of distinct captions, each with its first picture.

    Args:
        z_img: Raw image embeddings.
        z_txt: Raw text embeddings, of the same samples.
        text_tokens: Their captions.

    Returns:
        ``recall_at_1``, the share of captions whose nearest picture is their own, and
        ``recall_gallery``, the number of pictures: chance is one in it.
    """
    known: dict[tuple[int, ...], int] = {}
    for row, tokens in enumerate(text_tokens.tolist()):
        known.setdefault(tuple(tokens), row)
    first = list(known.values())
    pictures, texts = (F.normalize(z[first], dim=-1) for z in (z_img, z_txt))
    nearest = (texts @ pictures.T).argmax(dim=1)
    own = torch.arange(len(first), device=nearest.device)
    hits = (nearest == own).float().mean()
    return {"recall_at_1": float(hits), "recall_gallery": float(len(first))}
