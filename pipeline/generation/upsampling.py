"""One upsampler run over whole pictures, and what all sampling of pictures shares.

Dimension names: ``batch`` (pictures), ``side`` and ``larger`` (pixels).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.sampling import NoiseSource, Process, ddim_sample, seeded_noise
from pipeline.draws import hash64
from pipeline.errors import ConfigError
from pipeline.models.upsampler import Upsampler


@torch.inference_mode()
def upsample_once(
    model: Upsampler,
    process: Process,
    low_res: Float[Tensor, " batch 3 side side"],
    seeds: Sequence[int],
    num_steps: int,
) -> Float[Tensor, " batch 3 larger larger"]:
    """Small pictures in [-1, 1] → large pictures in [-1, 1], by DDIM (paper App. C).

    Args:
        model: The network.
        process: The process it was trained for.
        low_res: Small pictures.
        seeds: Seed of each picture's noise.
        num_steps: Denoising steps, at most the process's own.
    """
    scale = model.config.high_px // model.config.low_px
    side = low_res.shape[-1] * scale

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return model(x_t, t, low_res)

    noise = noise_on(low_res.device, seeds, (3, side, side))
    return ddim_sample(denoise, process, noise, checked_steps(num_steps, process)).clamp(-1, 1)


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
