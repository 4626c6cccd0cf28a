"""The autoregressive prior's task: embeddings as codes, one after another (paper §2.2).

Dimension names: ``batch``; ``component``; ``bucket``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.generation.priors import uniform_on
from pipeline.models.presets import build_autoregressive_prior
from pipeline.models.prior_ar import AutoregressivePrior
from pipeline.shards.loader import Sample
from pipeline.training.codes import read_tables
from pipeline.training.config import AutoregressivePriorTaskConfig
from pipeline.training.health import NUM_DRAWN, draw_cosines
from pipeline.training.inputs import FrozenText, TaskInputs, prior_text
from pipeline.training.preparation import (
    caption_embedding,
    drawn_caption,
    embedding,
    text_arrays,
)


@dataclass
class AutoregressivePriorTask:
    """Cross-entropy of every code, given the caption and the codes before it."""

    config: AutoregressivePriorTaskConfig
    inputs: TaskInputs
    view_px: int | None = field(default=None, init=False)
    image_px: int | None = field(default=None, init=False)
    needs_embeddings: bool = field(default=True, init=False)
    whole_batch: bool = field(default=False, init=False)
    num_judged: int | None = field(default=NUM_DRAWN, init=False)

    def __post_init__(self) -> None:
        """Prepare what every loss needs."""
        self._text = FrozenText(self.inputs)

    def build(self) -> nn.Module:
        """A fresh prior that holds the codes' tables."""
        if self.inputs.codes_uri is None:
            raise ConfigError("this task predicts codes: it needs their tables")
        tables = read_tables(self.inputs.codes_uri)
        prior = build_autoregressive_prior(self.config.model, len(tables["components"]))
        prior.codes.set_tables(tables)
        return prior

    def prepare(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One embedding and one of its captions; the dot product stays where it is dropped."""
        caption = drawn_caption(sample, rng, self.config.caption_drop_prob)
        return {
            "z_img": embedding(sample),
            "z_txt": caption_embedding(sample, caption.index),
            **text_arrays(caption, self.config.model.text),
        }

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Float[Tensor, " batch"], dict[str, Float[Tensor, ""]]]:
        """Mean over the codes of their cross-entropy, nats."""
        prior = cast(AutoregressivePrior, model)
        codes = prior.codes.encode(batch["z_img"])
        dot = prior.codes.dot_code(batch["z_img"], batch["z_txt"])
        logits = prior(codes, dot, *prior_text(prior.text_encoder, self._text, batch)).float()
        nats = F.cross_entropy(logits.transpose(1, 2), codes, reduction="none")
        likeliest = logits.detach().argmax(dim=-1)
        cosine = F.cosine_similarity(prior.codes.decode(likeliest), batch["z_img"])
        first = nats[:, : max(1, nats.shape[1] // 8)].detach()
        metrics = {
            "code_accuracy": (likeliest == codes).float().mean(),
            "cosine_to_z_img": cosine.mean(),
            "nats_of_first_eighth": first.mean(),
        }
        return nats.mean(dim=1), metrics

    def made(
        self, model: nn.Module, batch: dict[str, Tensor], seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """A draw for each caption, code by code, without guidance."""
        prior, z_img = cast(AutoregressivePrior, model), batch["z_img"]
        uniform = uniform_on(z_img.device, seeds, 1 + prior.codes.num_components)
        text = prior_text(prior.text_encoder, self._text, batch)
        return {"drawn": prior.sample(uniform, *text), "z_img": z_img, "z_txt": batch["z_txt"]}

    def judge(self, made: dict[str, Tensor]) -> dict[str, float]:
        """How close draws come to what they should be close to."""
        return draw_cosines(**made)

    def pictures(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> UInt8[torch.Tensor, " n 3 height width"] | None:
        """A prior makes no pictures."""
        return None
