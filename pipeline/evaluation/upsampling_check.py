"""Does an upsampler beat bicubic? Both get the same degraded small pictures of held-out samples.

Dimension names: ``picture``, ``side`` and ``small`` (pixels).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from pipeline import draws
from pipeline.diffusion.degradation import degrade
from pipeline.evaluation.metrics import psnr
from pipeline.generation.config import UpsamplerSampling
from pipeline.generation.upsampling import picture_seeds, upsample_once
from pipeline.generation.weights import TrainedUpsampler, load_upsampler
from pipeline.models.pictures import to_bytes, to_unit
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.views import shrunk


@dataclass(frozen=True)
class Upsampled:
    """Held-out pictures, and two ways back to them from the same degraded small ones."""

    originals: UInt8[np.ndarray, " picture side side 3"]
    low: UInt8[np.ndarray, " picture small small 3"]
    made: UInt8[np.ndarray, " picture side side 3"]
    """By the upsampler."""
    bicubic: UInt8[np.ndarray, " picture side side 3"]

    def measured(self) -> dict[str, Any]:
        """``psnr`` and ``psnr_bicubic`` per picture, dB; ``low_px``, ``high_px``."""
        return {
            "low_px": self.low.shape[1],
            "high_px": self.originals.shape[1],
            "psnr": psnr(self.made, self.originals).tolist(),
            "psnr_bicubic": psnr(self.bicubic, self.originals).tolist(),
        }


@dataclass(frozen=True)
class UpsampleHeldOut:
    """PSNR of one upsampler and of bicubic on chosen pictures of one shard."""

    stage_uri: str
    """Folder of the upsampler's training stage."""
    settings: UpsamplerSampling
    """How the evaluated pictures were made with it."""
    curated: CuratedDataset
    shard: int
    keys: tuple[str, ...]
    """Held-out samples of the shard."""
    seed: int
    batch_size: int
    threads: int

    def __call__(self) -> dict[str, Any]:
        """What was measured."""
        return self.pictures().measured()

    def pictures(self) -> Upsampled:
        """The pictures themselves."""
        torch.set_num_threads(self.threads)
        trained = load_upsampler(self.stage_uri, torch.device("cpu"))
        low_px, high_px = trained.model.config.low_px, trained.model.config.high_px
        stored = self.curated.pictures(self.shard, trained.view_px)
        originals = np.stack([shrunk(decode(stored[key]), high_px) for key in self.keys])
        rng = draws.generator(self.seed, "upsampling_check", self.shard)
        low = np.stack([degrade(shrunk(o, low_px), trained.degradation, rng) for o in originals])
        bicubic = np.stack([resized(picture, high_px) for picture in low])
        return Upsampled(originals, low, self._upsampled(trained, low), bicubic)

    def _upsampled(
        self, trained: TrainedUpsampler, low: UInt8[np.ndarray, " picture small small 3"]
    ) -> UInt8[np.ndarray, " picture side side 3"]:
        seeds = picture_seeds(self.seed, f"upsampling_check/{self.shard}", range(len(low)))
        made = []
        for start in range(0, len(low), self.batch_size):
            part = slice(start, start + self.batch_size)
            pictures = to_unit(torch.from_numpy(low[part]).permute(0, 3, 1, 2))
            larger = upsample_once(
                trained.model, trained.process, pictures, seeds[part], self.settings
            )
            made.append(to_bytes(larger).permute(0, 2, 3, 1).numpy())
        return np.concatenate(made)


def resized(
    picture: UInt8[np.ndarray, " small small 3"], side_px: int
) -> UInt8[np.ndarray, " side side 3"]:
    """Bicubic to another side."""
    size = (side_px, side_px)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
