"""What does a decoder make of a prior's draws, with the captions hidden from it?

Dimension names: ``picture`` (prompts), ``side`` (pixels).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pipeline import storage
from pipeline.evaluation.judges import Judge
from pipeline.evaluation.prior_check import CAPTION, MEAN
from pipeline.evaluation.sheets import Column, sheet
from pipeline.generation.config import DecoderSampling, PriorSampling, Sampling
from pipeline.generation.pictures import to_images
from pipeline.generation.prompts import Prompt
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP

NUM_SHOWN = 16
SHOWN_PX = 64


@dataclass(frozen=True)
class DrawPrompts:
    """Pictures at the decoder's size of prompts, by way of one prior."""

    clip_uri: str
    decoder_uri: str
    prior_uri: str
    """Folder of a prior's training stage; or ``CAPTION`` or ``MEAN``."""
    prior: PriorSampling
    decoder: DecoderSampling
    prompts: tuple[Prompt, ...]
    mean_z_img: tuple[float, ...]
    judge: Judge | None
    seed: int
    batch_size: int
    threads: int
    strip_uri: str
    """Where the first pictures go, one below the other."""

    def __call__(self) -> dict[str, Any]:
        """``right``: per attribute that prompts fix, whether each picture shows it."""
        torch.set_num_threads(self.threads)
        unclip = self._unclip()
        images: list[Image.Image] = []
        for start in range(0, len(self.prompts), self.batch_size):
            texts = [prompt.text for prompt in self.prompts[start : start + self.batch_size]]
            indices = range(start, start + len(texts))
            z_img = self._z_img(unclip, texts, indices)
            hidden = [""] * len(texts)
            images += to_images(unclip.decode(z_img, hidden, self.seed, indices))
        strip, buffer = np.concatenate([np.asarray(i) for i in images[:NUM_SHOWN]]), io.BytesIO()
        Image.fromarray(strip).save(buffer, "PNG")
        storage.write_bytes(self.strip_uri, buffer.getvalue())
        return {"right": self._right(images)}

    def _unclip(self) -> UnCLIP:
        has_network = self.prior_uri not in (CAPTION, MEAN)
        prior_uri = self.prior_uri if has_network else None
        stages = RunStages(self.clip_uri, prior_uri, self.decoder_uri, ())
        sampling = Sampling(prior=self.prior, decoder=self.decoder, upsamplers=())
        return UnCLIP.from_stages(stages, sampling, device="cpu")

    def _z_img(
        self, unclip: UnCLIP, texts: Sequence[str], indices: Sequence[int]
    ) -> Float[Tensor, " picture dim"]:
        if self.prior_uri == MEAN:
            return torch.tensor(self.mean_z_img).expand(len(texts), -1)
        return unclip.sample_prior(texts, self.seed, indices)

    def _right(self, images: Sequence[Image.Image]) -> dict[str, list[bool]]:
        if self.judge is None:
            return {}
        right: dict[str, list[bool]] = {}
        for prompt, image in zip(self.prompts, images, strict=True):
            reading = self.judge(image)
            for attribute, value in (prompt.truth or {}).items():
                if value is not None:
                    right.setdefault(attribute, []).append(reading.get(attribute) == value)
        return right


def joined(strips: dict[str, str]) -> bytes:
    """One sheet of several strips, each a column under its name, as PNG.

    Args:
        strips: File by name.
    """
    return sheet([Column(n, _rows(uri)) for n, uri in strips.items()], NUM_SHOWN, SHOWN_PX)


def _rows(strip_uri: str) -> UInt8[np.ndarray, " picture side side 3"]:
    with Image.open(io.BytesIO(storage.read_bytes(strip_uri))) as image:
        side = image.width
        return np.asarray(image).reshape(-1, side, side, 3)
