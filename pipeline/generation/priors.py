"""Every kind of prior behind one call: captions → draws of z_img.

Dimension names: ``batch`` (captions), ``dim`` (joint embedding). Draws depend on a picture's own
seed, never on its place in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.sampling import Process, ddpm_sample, no_threshold
from pipeline.generation.config import PriorSampling
from pipeline.generation.text import TextConditions, prior_conditions
from pipeline.generation.upsampling import checked_steps, noise_on, picture_seeds
from pipeline.models.config import ClipShape
from pipeline.models.prior import DiffusionPrior
from pipeline.models.prior_ar import AutoregressivePrior
from pipeline.models.prior_linear import LinearPrior


@runtime_checkable
class Prior(Protocol):
    """Captions in, raw image embeddings out."""

    @property
    def network(self) -> nn.Module:
        """What was trained."""
        ...

    @property
    def clip(self) -> ClipShape:
        """The CLIP it stands on."""
        ...

    def draw(
        self, conditions: TextConditions, seeds: Sequence[int], settings: PriorSampling
    ) -> Float[Tensor, " batch dim"]:
        """One raw z_img per seed.

        Args:
            conditions: One row per seed, and a last one of the empty caption.
            seeds: Seed of each picture's draws.
            settings: How to sample.
        """
        ...


def draw_z_img(
    prior: Prior,
    conditions: TextConditions,
    seed: int,
    indices: Sequence[int],
    settings: PriorSampling,
) -> Float[Tensor, " batch dim"]:
    """Several draws, and what the settings keep of them: the one closest to z_txt, or their mean.

    Source: paper §2.2, two samples, the higher z_img · z_txt (here of normalised embeddings, so
    that a long vector does not win by its length). Runs the whole batch once per draw.

    Args:
        prior: Any prior.
        conditions: One row per picture, and a last one of the empty caption.
        seed: Seed of all draws.
        indices: Number of each picture, which keys its noise.
        settings: How to sample.
    """
    draws = torch.stack(
        [
            prior.draw(conditions, picture_seeds(seed, f"prior/{draw}", indices), settings)
            for draw in range(settings.num_candidates)
        ]
    )
    if settings.kept == "mean":
        return draws.mean(dim=0)
    wanted = conditions.z_txt[: len(indices)]
    best = functional.cosine_similarity(draws, wanted[None], dim=-1).argmax(dim=0)
    return draws[best, torch.arange(len(indices), device=best.device)]


def uniform_on(
    device: torch.device, seeds: Sequence[int], count: int
) -> Float[Tensor, " batch draw"]:
    """What the autoregressive prior draws from: numbers in [0, 1), each row of its own seed."""
    rows = [np.random.Generator(np.random.Philox(key=[s, 0])).random(count) for s in seeds]
    return torch.from_numpy(np.stack(rows).astype(np.float32)).to(device)


def _bound(conditions: TextConditions, num: int, settings: PriorSampling) -> TextConditions:
    """The captions' rows, and with guidance as many of the empty caption behind them."""
    without = [num] * num if settings.guidance_scale != 1.0 else []
    return conditions.take([*range(num), *without])


@dataclass(frozen=True)
class DiffusionSampler:
    """The diffusion prior with its process: ancestral sampling on a stride (paper App. C)."""

    network: DiffusionPrior
    process: Process

    @property
    def clip(self) -> ClipShape:
        """The CLIP it stands on."""
        return self.network.config.clip

    def draw(
        self, conditions: TextConditions, seeds: Sequence[int], settings: PriorSampling
    ) -> Float[Tensor, " batch dim"]:
        """One raw z_img per seed."""
        network, doubled = self.network, settings.guidance_scale != 1.0
        text = prior_conditions(_bound(conditions, len(seeds), settings), network.text_encoder)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return network(x_t, t, text.z_txt, text.text_states, text.text_mask)

        dim = self.clip.embed_dim
        sampled = ddpm_sample(
            guided(denoise, settings.guidance_scale, dim) if doubled else denoise,
            self.process,
            noise_on(text.z_txt.device, seeds, (dim,)),
            checked_steps(settings.num_steps, self.process),
            threshold=no_threshold,
        )
        return network.unwhiten(sampled)


@dataclass(frozen=True)
class AutoregressiveSampler:
    """The autoregressive prior: code after code, the dot product from its upper half."""

    network: AutoregressivePrior

    @property
    def clip(self) -> ClipShape:
        """The CLIP it stands on."""
        return self.network.config.clip

    def draw(
        self, conditions: TextConditions, seeds: Sequence[int], settings: PriorSampling
    ) -> Float[Tensor, " batch dim"]:
        """One raw z_img per seed."""
        text = prior_conditions(_bound(conditions, len(seeds), settings), self.network.text_encoder)
        count = 1 + self.network.codes.num_components
        return self.network.sample(
            uniform_on(text.z_txt.device, seeds, count),
            text.z_txt,
            text.text_states,
            text.text_mask,
            temperature=settings.temperature,
            guidance_scale=settings.guidance_scale,
        )


@dataclass(frozen=True)
class LinearSampler:
    """The linear prior: every draw of a caption is the same, and guidance has no meaning."""

    network: LinearPrior

    @property
    def clip(self) -> ClipShape:
        """The CLIP it stands on."""
        return self.network.config.clip

    def draw(
        self, conditions: TextConditions, seeds: Sequence[int], settings: PriorSampling
    ) -> Float[Tensor, " batch dim"]:
        """The one z_img of each caption."""
        return self.network(conditions.z_txt[: len(seeds)])
