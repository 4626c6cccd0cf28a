"""A decoder's pictures at several guidance scales, from the same noise.

Dimension names: ``n`` (samples); ``scale`` (of guidance); ``height width`` (pixels).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from pipeline.diffusion.guidance import guided
from pipeline.diffusion.sampling import Process, ddim_sample
from pipeline.models.decoder import Decoder
from pipeline.models.pictures import to_bytes
from pipeline.training.inputs import FrozenText, decoder_text
from pipeline.training.preparation import empty_caption, text_arrays

SCALES = (1.0, 2.0, 4.0, 8.0)
NUM_GUIDED = 4
"""Samples whose pictures are shown at every scale."""
STEPS = 10


@runtime_checkable
class Guided(Protocol):
    """A task whose model is guided when it draws pictures."""

    def guided_pictures(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> UInt8[Tensor, " scale n 3 height width"]:
        """Pictures of every sample at each of `SCALES`, from the batch's own noise."""
        ...


@torch.no_grad()
def guided_pictures(
    decoder: Decoder, frozen: FrozenText, process: Process, batch: dict[str, Tensor]
) -> UInt8[Tensor, " scale n 3 height width"]:
    """Guided away from the empty caption and no embedding, as generation does.

    Args:
        decoder: The network.
        frozen: The CLIP that captions are read through.
        process: The decoder's.
        batch: As the decoder's task prepares it, no condition dropped.
    """
    doubled = dict(batch)
    for name, ids in text_arrays(empty_caption(), decoder.config.text).items():
        rows = batch[name]
        doubled[name] = torch.cat([rows, torch.from_numpy(ids).to(rows).expand_as(rows)])
    text = decoder_text(decoder.text_encoder, frozen, doubled)
    z_img, has = batch["z_img"].repeat(2, 1), batch["has_z_img"]
    has_z_img = torch.cat([has, torch.zeros_like(has)])

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return decoder(x_t, t, z_img, has_z_img, *text)[:, :3]

    process, steps = process.to(batch["eps"]), min(STEPS, len(process.alpha_bar))
    made = [
        ddim_sample(guided(denoise, scale, 3), process, lambda _: batch["eps"], steps)
        for scale in SCALES
    ]
    return torch.stack([to_bytes(pictures) for pictures in made])
