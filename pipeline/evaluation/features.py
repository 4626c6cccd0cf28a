"""Networks whose features of pictures are compared: a CLIP, or the Inception of published numbers.

Dimension names: ``picture``, ``side`` (pixels), ``dim`` (feature), ``caption``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from pipeline.generation.text import clip_conditions
from pipeline.models.clip import ClipModel
from pipeline.models.inception import FidInception
from pipeline.models.pictures import as_clip_reads, to_unit

OWN_CLIP = "own_clip"
Pictures = UInt8[np.ndarray, " picture side side 3"]


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from; small, and travels to tasks."""

    name: str
    """In the names of metrics, without dots: ``own_clip``, ``ViT_L_14``, ``inception``."""
    load: Callable[[], ClipModel | FidInception]


class Extractor:
    """A loaded network, in batches."""

    def __init__(self, source: FeatureSource, batch_size: int) -> None:
        """Load the network."""
        self._network = source.load().eval()
        self._batch_size = batch_size

    @torch.inference_mode()
    def pictures(self, pictures: Pictures) -> Float32[np.ndarray, " picture dim"]:
        """Features of pictures, not normalised."""
        rows = []
        for start in range(0, len(pictures), self._batch_size):
            part = pictures[start : start + self._batch_size]
            batch = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2)
            rows.append(self._encoded(batch).float().cpu().numpy())
        return np.concatenate(rows)

    def _encoded(self, batch: Tensor) -> Tensor:
        if isinstance(self._network, FidInception):
            return self._network(batch)
        return self._network.encode_image(
            as_clip_reads(to_unit(batch), self._network.config.vision.image_px)
        )

    @torch.inference_mode()
    def captions(self, texts: Sequence[str]) -> Float32[np.ndarray, " caption dim"] | None:
        """Embeddings of captions, not normalised; None of a network that reads none."""
        if isinstance(self._network, FidInception):
            return None
        clip = self._network
        parts = [
            clip_conditions(clip, part, torch.device("cpu")).z_txt.float().numpy()
            for part in _parts(texts, self._batch_size)
        ]
        return np.concatenate(parts)


def _parts(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
