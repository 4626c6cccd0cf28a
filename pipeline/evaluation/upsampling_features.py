"""Upsampled pictures as a CLIP sees them, for Fréchet distances.

Dimension names: ``picture``, ``crop`` (parts of a picture), ``dim`` (joint embedding), ``side``
(pixels).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.numpy import load, save
from torch import Tensor
from torch.nn import functional

from pipeline import storage
from pipeline.evaluation.sheets import Column, sheet
from pipeline.evaluation.upsampling_check import UpsampleHeldOut
from pipeline.generation.weights import load_clip
from pipeline.models.clip import ClipModel
from pipeline.models.pictures import to_unit

SETS = ("made", "bicubic", "originals")
NUM_SHOWN = 6
SHOWN_PX = 256


@dataclass(frozen=True)
class EmbedUpsampled:
    """PSNR, and the features of made, bicubic and true pictures."""

    held_out: UpsampleHeldOut
    clip_uri: str
    """Folder of the CLIP whose embeddings are the features."""
    crops_per_side: int
    features_uri: str
    """Where the features go: a safetensors file with an array per set, picture × crop × dim."""
    sheet_uri: str
    """Where a sheet of the first pictures goes."""

    def __call__(self) -> dict[str, Any]:
        """What ``UpsampleHeldOut`` measures, and ``clip_px``: side that CLIP reads."""
        found = self.held_out.pictures()
        clip = load_clip(self.clip_uri, torch.device("cpu"))
        features = {name: self._features(clip, getattr(found, name)) for name in SETS}
        storage.write_bytes(self.features_uri, save(features))
        columns = [
            Column("small, degraded", found.low),
            Column("bicubic", found.bicubic),
            Column("upsampler", found.made),
            Column("original", found.originals),
        ]
        storage.write_bytes(self.sheet_uri, sheet(columns, NUM_SHOWN, SHOWN_PX))
        return {**found.measured(), "clip_px": clip.config.vision.image_px}

    @torch.inference_mode()
    def _features(
        self, clip: ClipModel, pictures: UInt8[np.ndarray, " picture side side 3"]
    ) -> Float[np.ndarray, " picture crop dim"]:
        side, size = clip.config.vision.image_px, self.held_out.batch_size
        rows = []
        for start in range(0, len(pictures), size):
            part = torch.from_numpy(pictures[start : start + size]).permute(0, 3, 1, 2)
            crops = [clip.encode_image(crop) for crop in _crops(part, side, self.crops_per_side)]
            rows.append(torch.stack(crops, dim=1).float().numpy())
        return np.concatenate(rows)


def _crops(
    pictures: UInt8[Tensor, " picture 3 side side"], crop_px: int, per_side: int
) -> Iterator[Float[Tensor, " picture 3 crop_side crop_side"]]:
    """Crops of CLIP's side, evenly spread; a picture that is not larger is one, resized."""
    unit, side = to_unit(pictures), pictures.shape[-1]
    if side <= crop_px:
        size = (crop_px, crop_px)
        resized = functional.interpolate(unit, size, mode="bicubic", align_corners=False)
        yield resized.clamp(-1, 1)
        return
    starts = np.linspace(0, side - crop_px, per_side).round().astype(int).tolist()
    for top in starts:
        for left in starts:
            yield unit[..., top : top + crop_px, left : left + crop_px]


def read_features(uri: str) -> dict[str, Float[np.ndarray, " picture crop dim"]]:
    """The features of one file, by set."""
    return load(storage.read_bytes(uri))
