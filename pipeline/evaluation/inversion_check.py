"""Does a decoder find the noise behind a picture? DDIM inversion, and sampling again with eta 0.

Dimension names: ``picture``, ``side`` (pixels).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline import storage
from pipeline.diffusion.sampling import Denoiser, ddim_invert, ddim_sample, no_threshold
from pipeline.evaluation.held_out import HeldOutSource
from pipeline.evaluation.metrics import psnr
from pipeline.evaluation.sheets import Column, sheet
from pipeline.generation.text import clip_conditions, decoder_conditions
from pipeline.generation.upsampling import checked_steps, noise_on, picture_seeds
from pipeline.generation.weights import TrainedDecoder, load_decoder
from pipeline.models.pictures import to_bytes, to_unit
from pipeline.shards.curated import decode
from pipeline.shards.views import shrunk

Pictures = UInt8[np.ndarray, " picture side side 3"]
NUM_SHOWN = 12
SHOWN_PX = 96


@dataclass(frozen=True)
class InvertHeldOut:
    """Held-out pictures → noise → pictures, with the pictures' own z_img and no caption."""

    source: HeldOutSource
    clip_uri: str
    decoder_uri: str
    num_steps: tuple[int, ...]
    """Network evaluations of each way, one round trip per number."""
    seed: int
    batch_size: int
    threads: int
    sheet_uri: str
    """Where a sheet of the first pictures goes."""

    def __call__(self) -> dict[str, Any]:
        """``round_trips``: per number of steps ``psnr`` (dB) and ``mae`` (of 255) per picture.

        ``other_noise``: the same of pictures drawn from fresh noise with the most steps; how far
        z_img alone leads.
        """
        torch.set_num_threads(self.threads)
        trained = load_decoder(self.clip_uri, self.decoder_uri, torch.device("cpu"))
        z_img = torch.from_numpy(self.source.pairs().z_img)
        pictures = self._pictures(trained)
        most = max(self.num_steps)
        made = {n: self._made(trained, pictures, z_img, n, inverts=True) for n in self.num_steps}
        fresh = self._made(trained, pictures, z_img, most, inverts=False)
        columns = [Column("original", pictures)]
        columns += [Column(f"{n} steps", found) for n, found in made.items()]
        columns.append(Column("other noise", fresh))
        storage.write_bytes(self.sheet_uri, sheet(columns, NUM_SHOWN, SHOWN_PX))
        return {
            "round_trips": {str(n): _errors(found, pictures) for n, found in made.items()},
            "other_noise": _errors(fresh, pictures),
        }

    def _pictures(self, trained: TrainedDecoder) -> Pictures:
        side, curated = trained.model.config.image_px, self.source.curated
        view_px = curated.view_for(side)
        rows = []
        for shard, keys in self.source.by_shard():
            stored = curated.pictures(shard, view_px, keys)
            rows += [shrunk(decode(stored[key]), side) for key in keys]
        return np.stack(rows)

    @torch.inference_mode()
    def _made(
        self,
        trained: TrainedDecoder,
        pictures: Pictures,
        z_img: Float[Tensor, " picture dim"],
        num_steps: int,
        *,
        inverts: bool,
    ) -> Pictures:
        process = trained.process
        steps = checked_steps(num_steps, process)
        seeds = picture_seeds(self.seed, "inversion_check", range(len(pictures)))
        made = []
        for start in range(0, len(pictures), self.batch_size):
            part = slice(start, start + self.batch_size)
            x_start = to_unit(torch.from_numpy(pictures[part]).permute(0, 3, 1, 2))
            denoise = _denoiser(trained, z_img[part])
            x_end = noise_on(x_start.device, seeds[part], x_start.shape[1:])(0)
            if inverts:
                x_end = ddim_invert(denoise, process, x_start, steps)
            found = ddim_sample(
                denoise, process, lambda _, x=x_end: x, steps, threshold=no_threshold
            )
            made.append(to_bytes(found).permute(0, 2, 3, 1).numpy())
        return np.concatenate(made)


def _denoiser(trained: TrainedDecoder, z_img: Float[Tensor, " picture dim"]) -> Denoiser:
    """The decoder with these embeddings and the empty caption bound."""
    decoder = trained.model
    empty = clip_conditions(trained.clip, [""] * len(z_img), torch.device("cpu"))
    text = decoder_conditions(empty, decoder.text_encoder)
    has_z_img = torch.full((len(z_img),), decoder.config.embedding != "none")

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        read = (text.z_txt, text.text_states, text.text_mask)
        return decoder(x_t, t, z_img, has_z_img, *read)[:, :3]

    return denoise


def _errors(made: Pictures, pictures: Pictures) -> dict[str, list[float]]:
    distance = np.abs(made.astype(np.float64) - pictures)
    return {
        "psnr": psnr(made, pictures).tolist(),
        "mae": distance.mean(axis=(1, 2, 3)).tolist(),
    }
