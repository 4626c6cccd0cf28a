"""Pictures of the same prompts, drawn in several ways, as features and a judge see them.

Dimension names: ``picture``, ``side`` (pixels), ``dim`` (feature).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

from pipeline import storage
from pipeline.evaluation.features import Extractor, FeatureSource, Pictures
from pipeline.evaluation.held_out import HeldOutSource
from pipeline.evaluation.judges import Judge
from pipeline.evaluation.metrics import clip_scores
from pipeline.generation.config import Sampling
from pipeline.generation.pictures import to_images
from pipeline.generation.prompts import Prompt
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.shards.curated import decode
from pipeline.shards.views import shrunk

PICTURES = "pictures"
"""Name of the first pictures in a file of features."""
NUM_KEPT = 32
Rows = Mapping[str, Any]
ZImg = Literal["prior", "z_txt", "none"]
"""What the decoder is given as z_img: the prior's draw, the caption's own embedding, nothing."""


@dataclass(frozen=True)
class Way:
    """How pictures are drawn from captions."""

    sampling: Sampling
    z_img: ZImg = "prior"


@dataclass(frozen=True)
class DrawAndRead:
    """One picture per prompt, in one way."""

    stages: RunStages
    way: Way
    prompts: tuple[Prompt, ...]
    features: tuple[FeatureSource, ...]
    judge: Judge | None
    seed: int
    batch_size: int
    threads: int
    file_uri: str
    """Where features and the first pictures go (safetensors)."""
    num_kept: int = NUM_KEPT
    """Pictures that are kept."""

    def __call__(self) -> dict[str, Any]:
        """What was measured of each picture.

        ``clip_scores`` by name of a CLIP, ``readings``, ``right`` by attribute that prompts fix,
        ``seconds_per_picture`` (wall time, models loaded), ``side_px``, the first ``prompts``,
        ``file_uri``.
        """
        torch.set_num_threads(self.threads)
        unclip = UnCLIP.from_stages(self.stages, self.way.sampling, device="cpu")
        started = time.perf_counter()
        pictures = self._drawn(unclip)
        seconds = (time.perf_counter() - started) / len(pictures)
        del unclip
        texts, rows, scores = [prompt.text for prompt in self.prompts], {}, {}
        for source in self.features:
            extractor = Extractor(source, self.batch_size)
            rows[source.name] = extractor.pictures(pictures)
            z_txt = extractor.captions(texts)
            if z_txt is not None:
                scores[source.name] = clip_scores(rows[source.name], z_txt).tolist()
        rows[PICTURES] = pictures[: self.num_kept]
        storage.write_bytes(self.file_uri, save(rows))
        readings = self._readings(pictures)
        return {
            "clip_scores": scores,
            "readings": readings,
            "right": _right(self.prompts, readings),
            "seconds_per_picture": seconds,
            "side_px": pictures.shape[1],
            "prompts": texts[:NUM_KEPT],
            "file_uri": self.file_uri,
        }

    def _drawn(self, unclip: UnCLIP) -> Pictures:
        made: list[np.ndarray] = []
        for start in range(0, len(self.prompts), self.batch_size):
            texts = [prompt.text for prompt in self.prompts[start : start + self.batch_size]]
            indices = range(start, start + len(texts))
            z_img = self._z_img(unclip, texts, indices)
            small = unclip.decode(z_img, texts, self.seed, indices)
            large = unclip.upsample(small, self.seed, indices)
            made += [np.asarray(image) for image in to_images(large)]
        return np.stack(made)

    def _z_img(self, unclip: UnCLIP, texts: list[str], indices: range) -> Tensor | None:
        if self.way.z_img == "none":
            return None
        if self.way.z_img == "z_txt":
            return unclip.encode(texts).z_txt
        return unclip.sample_prior(texts, self.seed, indices)

    def _readings(self, pictures: Pictures) -> list[dict[str, str | None]]:
        if self.judge is None:
            return []
        from PIL import Image

        return [dict(self.judge(Image.fromarray(picture))) for picture in pictures]


def _right(
    prompts: tuple[Prompt, ...], readings: list[dict[str, str | None]]
) -> dict[str, list[bool]]:
    right: dict[str, list[bool]] = {}
    for prompt, reading in zip(prompts, readings, strict=False):
        for attribute, value in (prompt.truth or {}).items():
            if value is not None:
                right.setdefault(attribute, []).append(reading.get(attribute) == value)
    return right


@dataclass(frozen=True)
class ReadHeldOut:
    """Features of held-out pictures at the side of the drawn ones."""

    source: HeldOutSource
    side_px: int
    features: tuple[FeatureSource, ...]
    batch_size: int
    threads: int
    file_uri: str
    """Where features and the first pictures go (safetensors)."""

    def __call__(self) -> dict[str, Any]:
        """``file_uri`` and ``num``."""
        torch.set_num_threads(self.threads)
        pictures = held_out_pictures(self.source, self.side_px)
        rows = {
            source.name: Extractor(source, self.batch_size).pictures(pictures)
            for source in self.features
        }
        rows[PICTURES] = pictures[:NUM_KEPT]
        storage.write_bytes(self.file_uri, save(rows))
        return {"file_uri": self.file_uri, "num": len(pictures)}


def held_out_pictures(source: HeldOutSource, side_px: int) -> Pictures:
    """Held-out pictures shrunk to a side, in the order of ``source.by_shard``."""
    view_px, rows = source.curated.view_for(side_px), []
    for shard, keys in source.by_shard():
        stored = source.curated.pictures(shard, view_px, keys)
        rows += [shrunk(decode(stored[key]), side_px) for key in keys]
    return np.stack(rows)


def read_rows(uri: str) -> dict[str, np.ndarray]:
    """Arrays of a file that ``DrawAndRead`` or ``ReadHeldOut`` wrote, by name."""
    return load(storage.read_bytes(uri))
