"""Do a trained model's conditions matter? Its held-out loss, as is and with those of other samples.

Every condition meets the same samples, diffusion steps and noises, so that losses are compared in
pairs. Dimension names: ``sample``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import TypeAdapter
from torch import Tensor, nn

from pipeline import storage, weights_file
from pipeline.errors import DataError
from pipeline.generation.plan import shuffled_partners
from pipeline.models.prior_ar import AutoregressivePrior
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList
from pipeline.shards.loader import Sample
from pipeline.shards.z_statistics import chosen_shards
from pipeline.training.batches import DataPlace, collate
from pipeline.training.codes import CODES, coding_errors, owners
from pipeline.training.config import (
    AutoregressivePriorTaskConfig,
    DecoderTaskConfig,
    PriorTaskConfig,
    TaskConfig,
)
from pipeline.training.gaussian_codes import gaussian_nats
from pipeline.training.inputs import OTHER_EMBEDDING, task_inputs
from pipeline.training.preparation import caption_embedding, embedding
from pipeline.training.tasks import Batch, Task, build_task

SPLITS = ("test", "validation")
"""Held-out samples come from these, in this order."""
TRAINING_ROWS = 100_000
"""Training samples on which the linear Gaussian is fitted, at most."""
AS_IS = "as_is"
CAPTION = ("text_tokens", "own_tokens")
SHUFFLED: dict[str, dict[str, tuple[str, ...]]] = {
    "prior": {
        "caption_shuffled": (*CAPTION, OTHER_EMBEDDING),
        "text_states_shuffled": CAPTION,
        "z_txt_shuffled": (OTHER_EMBEDDING,),
    },
    "autoregressive_prior": {
        "caption_shuffled": (*CAPTION, OTHER_EMBEDDING),
        "text_states_shuffled": CAPTION,
        "z_txt_shuffled": (OTHER_EMBEDDING,),
        "dot_shuffled": ("z_txt",),  # the stored one gives the dot product alone
    },
    "decoder": {
        "caption_shuffled": (*CAPTION, OTHER_EMBEDDING),
        "z_img_shuffled": ("z_img",),
        "both_shuffled": (*CAPTION, OTHER_EMBEDDING, "z_img"),
    },
}
"""Kind of model → condition → which arrays of the batch come from another sample."""


@dataclass(frozen=True)
class HeldOutLosses:
    """Losses of one trained model on held-out samples."""

    stage: Result
    """Training stage of a prior, an autoregressive prior or a decoder."""
    inputs: Mapping[str, Result]
    """``curate, clip, embed``."""
    keep: KeepList
    num_samples: int
    num_draws: int
    """Draws of step and noise per sample, whose losses are averaged."""
    seed: int
    batch_size: int
    threads: int

    def __call__(self) -> dict[str, Any]:
        """``kind``; ``losses``: per condition the loss of each sample.

        Of codes also ``coding`` (errors per sample), ``losses_of_linear_gaussian``, ``num_buckets``
        and ``max_pca_error``.
        """
        torch.set_num_threads(self.threads)
        curated = CuratedDataset(self.inputs["curate"])
        inputs = replace(
            task_inputs(self.inputs, curated), codes_uri=storage.join(self.stage.uri, CODES)
        )
        uri = storage.join(self.stage.uri, self.stage.content["weights"]["name"])
        state, published = weights_file.load_weights(uri)
        config = _with_all_conditions(TypeAdapter(TaskConfig).validate_python(published["task"]))
        task = build_task(config, inputs)
        model = task.build()
        weights_file.load_state(model, state, uri)
        samples = self._samples(task)
        found: dict[str, Any] = {"kind": config.type, "losses": {}}
        for name, rows in self._losses(task, model.eval(), samples, config.type).items():
            found["losses"][name] = rows.tolist()
        if isinstance(config, AutoregressivePriorTaskConfig):
            embedded = EmbeddedDataset(self.inputs["embed"], curated)
            codes, pairs = cast(AutoregressivePrior, model).codes, _pairs(samples)
            found["coding"] = coding_errors(codes, embedded.pca()["variance"], pairs[1])
            gaussian = gaussian_nats(codes, self._training_pairs(embedded), pairs)
            found["losses_of_linear_gaussian"] = gaussian.tolist()
            found["num_buckets"] = config.model.num_buckets
            found["max_pca_error"] = config.max_pca_error
        return found

    def _samples(self, task: Task) -> list[Sample]:
        place = DataPlace(self.inputs["curate"].uri, self.keep, self.inputs["embed"].uri)
        samples: list[Sample] = []
        for split in SPLITS:
            source = place.source(task, split, cache_bytes=1 << 28)
            for shard, offset in source.held_out(self.seed, self.num_samples).tolist():
                if len(samples) < self.num_samples:
                    samples.append(source.sample(len(samples), shard, offset))
        if len(samples) < 2:
            raise DataError(f"{self.keep.uri} holds out {len(samples)} samples, 2 are needed")
        return samples

    def _training_pairs(self, embedded: EmbeddedDataset) -> tuple[Tensor, Tensor]:
        """z_txt and z_img of training pairs, of whole shards."""
        z_txt, z_img = [], []
        for shard in chosen_shards(self.keep.counts("train"), TRAINING_ROWS):
            found = embedded.shard(shard, self.keep.keys(shard, "train"))
            z_txt.append(found.z_txt)
            z_img.append(found.z_img[owners(found)])
        joined = (np.concatenate(rows).astype(np.float32) for rows in (z_txt, z_img))
        first, second = map(torch.from_numpy, joined)
        return first, second

    def _losses(
        self, task: Task, model: nn.Module, samples: list[Sample], kind: str
    ) -> dict[str, Float64[np.ndarray, " sample"]]:
        shuffles = {AS_IS: (), **SHUFFLED[kind]}
        sums = {name: np.zeros(len(samples)) for name in shuffles}
        partners = torch.tensor(shuffled_partners(len(samples), self.seed))
        num_draws = 1 if kind == "autoregressive_prior" else self.num_draws
        for draw in range(num_draws):
            batch = collate(task, samples, self.seed, f"condition_check/{draw}")
            batch[OTHER_EMBEDDING] = batch["text_tokens"]
            for name, swapped in shuffles.items():
                others = {key: batch[key][partners] for key in swapped if key in batch}
                sums[name] += self._loss(task, model, batch | others)
        return {name: total / num_draws for name, total in sums.items()}

    @torch.inference_mode()
    def _loss(self, task: Task, model: nn.Module, batch: Batch) -> Float64[np.ndarray, " sample"]:
        rows = []
        for start in range(0, len(batch["z_img"]), self.batch_size):
            part: dict[str, Tensor] = {
                name: value[start : start + self.batch_size] for name, value in batch.items()
            }
            rows.append(task.loss(model, part)[0].double().numpy())
        return np.concatenate(rows)


def _pairs(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """z_txt of the first captions, and z_img."""
    z_txt = np.stack([caption_embedding(sample, 0) for sample in samples])
    z_img = np.stack([embedding(sample) for sample in samples])
    return torch.from_numpy(z_txt), torch.from_numpy(z_img)


def _with_all_conditions(config: TaskConfig) -> TaskConfig:
    """The same task, dropping no condition."""
    if isinstance(config, PriorTaskConfig | AutoregressivePriorTaskConfig):
        return config.model_copy(update={"caption_drop_prob": 0.0})
    if isinstance(config, DecoderTaskConfig):
        return config.model_copy(update={"caption_drop_prob": 0.0, "z_img_drop_prob": 0.0})
    raise DataError(f"a model of kind {config.type} reads no captions; check a prior or a decoder")
