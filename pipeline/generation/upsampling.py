"""One upsampler run over whole pictures, and what all sampling of pictures shares.

Dimension names: ``batch`` (pictures), ``side`` and ``larger`` (pixels).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.sampling import (
    NoiseSource,
    Process,
    Threshold,
    clip_to_unit,
    ddim_sample,
    seeded_noise,
)
from pipeline.draws import hash64
from pipeline.errors import ConfigError
from pipeline.generation.config import UpsamplerSampling
from pipeline.generation.tiling import tiled, whole
from pipeline.models.upsampler import Upsampler


@torch.inference_mode()
def upsample_once(
    model: Upsampler,
    process: Process,
    low_res: Float[Tensor, " batch 3 side side"],
    seeds: Sequence[int],
    settings: UpsamplerSampling,
    *,
    threshold: Threshold = clip_to_unit,
) -> Float[Tensor, " batch 3 larger larger"]:
    """Small pictures in [-1, 1] → large pictures in [-1, 1], by DDIM (paper App. C).

    Args:
        model: The network.
        process: The process it was trained for.
        low_res: Small pictures.
        seeds: Seed of each picture's noise.
        settings: Steps, at most the process's own, and what follows them.
        threshold: Applied to each predicted large picture.
    """
    scale = model.config.high_px // model.config.low_px
    side = low_res.shape[-1] * scale

    denoise = whole(model, low_res)
    if settings.tile_px is not None and settings.tile_px < side:
        denoise = tiled(model, low_res, settings.tile_px, settings.tile_overlap_px)
    noise = noise_on(low_res.device, seeds, (3, side, side))
    steps = checked_steps(settings.num_steps, process)
    pictures = ddim_sample(denoise, process, noise, steps, threshold=threshold).clamp(-1, 1)
    return back_projected(pictures, low_res) if settings.back_project else pictures


def back_projected(
    pictures: Float[Tensor, " batch 3 larger larger"], low_res: Float[Tensor, " batch 3 side side"]
) -> Float[Tensor, " batch 3 larger larger"]:
    r"""One step of back-projection: the error of the shrunken picture, enlarged and added.

    .. math:: x \leftarrow x + U(y - D x)

    with D the box mean that made the small pictures and U bilinear, in [-1, 1].
    Source: Irani & Peleg 1991, "Improving resolution by image registration", §3.
    """
    scale = pictures.shape[-1] // low_res.shape[-1]
    error = low_res - functional.avg_pool2d(pictures, scale)
    enlarged = functional.interpolate(
        error, pictures.shape[-2:], mode="bilinear", align_corners=False
    )
    return (pictures + enlarged).clamp(-1, 1)


def picture_seeds(seed: int, purpose: str, indices: Sequence[int]) -> list[int]:
    """The noise seed of each picture for one model."""
    return [hash64(seed, purpose, int(index)) for index in indices]


def noise_on(device: torch.device, seeds: Sequence[int], shape: Sequence[int]) -> NoiseSource:
    """Seeded noise, drawn on the CPU so that it is the same for every device, moved to one."""
    source = seeded_noise(seeds, shape)
    return lambda step: source(step).to(device)


def checked_steps(wanted: int, process: Process) -> int:
    """The wanted number of denoising steps.

    Raises:
        ConfigError: More than the model was trained with.
    """
    total = len(process.alpha_bar)
    if wanted > total:
        raise ConfigError(f"num_steps={wanted}, the model was trained with {total}; use fewer")
    return wanted
