"""How close are a prior's draws to the embeddings of the pictures that captions were written for?

Dimension names: ``picture`` (held-out samples), ``dim`` (joint embedding).
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from pipeline import draws
from pipeline.evaluation.held_out import HeldOutPairs, HeldOutSource
from pipeline.evaluation.metrics import paired_cosines
from pipeline.generation.config import PriorSampling
from pipeline.generation.plan import shuffled_partners
from pipeline.generation.priors import Prior, draw_z_img
from pipeline.generation.text import clip_conditions
from pipeline.generation.weights import load_prior
from pipeline.models.clip import ClipModel

CAPTION, MEAN = "caption", "mean"
"""Arms without a network: z_txt in the place of a draw, and the mean z_img of the data."""
NUM_RESIDUALS = 2048
"""Training samples whose residuals are drawn from."""


@dataclass(frozen=True)
class DrawHeldOut:
    """Draws of one prior for held-out captions."""

    source: HeldOutSource
    clip_uri: str
    prior_uri: str
    """Folder of a prior's training stage; or ``CAPTION`` or ``MEAN``."""
    settings: PriorSampling
    seed: int
    batch_size: int
    threads: int
    adds_residuals: bool = False
    """Add to each draw what this prior's draw missed of a training sample's z_img, drawn at random:
    makes a regression, which says the mean, draw from a distribution."""

    def __call__(self) -> dict[str, Any]:
        """``cosines``: per sample to ``z_img``, ``z_txt``, an ``other`` sample's z_img.

        And to z_img after the data's mean was taken from both (``centred``), which shows what a
        caption says beyond "a picture of this data set". ``draw_s``: seconds of drawing.
        """
        torch.set_num_threads(self.threads)
        pairs = self.source.pairs()
        mean = np.array(self.source.embedded.statistics()[0], np.float32)
        started = time.perf_counter()
        drawn = self._drawn(pairs, mean)
        if self.adds_residuals:
            drawn = drawn + self._residuals(mean, len(drawn))
        draw_s = time.perf_counter() - started
        others = pairs.z_img[shuffled_partners(len(drawn), self.seed)]
        cosines = {
            "z_img": paired_cosines(drawn, pairs.z_img),
            "centred": paired_cosines(drawn - mean, pairs.z_img - mean),
            "z_txt": paired_cosines(drawn, pairs.z_txt),
            "other": paired_cosines(drawn, others),
        }
        return {"cosines": {n: rows.tolist() for n, rows in cosines.items()}, "draw_s": draw_s}

    def _drawn(
        self, pairs: HeldOutPairs, mean: Float32[np.ndarray, " dim"]
    ) -> Float32[np.ndarray, " picture dim"]:
        if self.prior_uri == CAPTION:
            return pairs.z_txt
        if self.prior_uri == MEAN:
            return np.broadcast_to(mean, pairs.z_img.shape)
        clip, prior = load_prior(self.clip_uri, self.prior_uri, torch.device("cpu"))
        size = self.batch_size
        parts = [
            self._batch(clip, prior, pairs.captions[start : start + size], start)
            for start in range(0, len(pairs.captions), size)
        ]
        return np.concatenate(parts)

    def _residuals(
        self, mean: Float32[np.ndarray, " dim"], num: int
    ) -> Float32[np.ndarray, " picture dim"]:
        source = replace(self.source, splits=("train",), num_samples=NUM_RESIDUALS)
        pairs = source.pairs()
        missed = pairs.z_img - self._drawn(pairs, mean)
        return missed[draws.generator(self.seed, "residuals", 0).integers(len(missed), size=num)]

    @torch.inference_mode()
    def _batch(
        self, clip: ClipModel, prior: Prior, captions: list[str], start: int
    ) -> Float32[np.ndarray, " picture dim"]:
        conditions = clip_conditions(clip, [*captions, ""], torch.device("cpu"))
        indices = range(start, start + len(captions))
        return draw_z_img(prior, conditions, self.seed, indices, self.settings).float().numpy()
