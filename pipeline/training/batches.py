"""Samples → batches of tensors: draws by position, stacking, and the parts of a step.

A batch is the dictionary that the task's ``prepare`` makes, stacked per name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import draws
from pipeline.errors import ConfigError
from pipeline.results import read_result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList
from pipeline.shards.loader import Loader, Sample, SampleSource, ShardSource
from pipeline.shards.mixture import MixedSource
from pipeline.training.config import TrainConfig
from pipeline.training.tasks import Task

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class DataPlace:
    """Where a training reads; small and picklable, opened by every worker for itself."""

    curated_uri: str
    keep: KeepList
    embedded_uri: str | None = None

    def source(self, task: Task, split: str, *, cache_bytes: int, open_shards: int) -> ShardSource:
        """Open one split as a task wants to read it.

        Raises:
            ConfigError: The task needs embeddings, and there are none.
        """
        curated = CuratedDataset.open(self.curated_uri)
        embedded = self._embedded(curated) if task.needs_embeddings else None
        return ShardSource(
            curated,
            self.keep,
            split,
            view_px=task.view_px,
            embedded=embedded,
            cache_bytes=cache_bytes,
            open_shards=open_shards,
        )

    def _embedded(self, curated: CuratedDataset) -> EmbeddedDataset:
        result = read_result(self.embedded_uri) if self.embedded_uri else None
        if result is None:
            raise ConfigError("this task reads embeddings, but no finished embed stage is given")
        return EmbeddedDataset(result, curated)


@dataclass(frozen=True)
class MixedPlace:
    """Where a training reads that mixes several lists or data sets."""

    places: tuple[DataPlace, ...]
    quotas: tuple[int, ...]
    """Positions of each place in a period."""

    def source(self, task: Task, split: str, *, cache_bytes: int, open_shards: int) -> MixedSource:
        """Open one split of every place; the cache is shared out by their quotas.

        Raises:
            ConfigError: The task needs embeddings, and a place has none.
        """
        total = sum(self.quotas)
        sources = [
            place.source(
                task, split, cache_bytes=cache_bytes * quota // total, open_shards=open_shards
            )
            for place, quota in zip(self.places, self.quotas, strict=True)
        ]
        return MixedSource(sources, self.quotas)


def collate(task: Task, samples: list[Sample], seed: int, purpose: str) -> Batch:
    """Prepare samples, each with the generator of its position, and stack them."""
    key, streams = draws.hash64(seed, purpose), draws.Rekeyed()
    rows = [task.prepare(sample, streams.at(key, sample.position)) for sample in samples]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


@dataclass(frozen=True)
class Part:
    """One forward pass of a step on this worker."""

    number: int
    """The (first) micro-batch of the step: with the step it seeds dropout."""
    batch: Batch
    num_samples: int
    weights: Tensor | None = None
    """What the samples' losses are multiplied by; None where all weigh the same."""


def weights_of(samples: list[Sample], source_has_weights: bool) -> Tensor | None:
    """Weights of a batch's samples, or None where their keep-lists have none."""
    if not source_has_weights:
        return None
    return torch.tensor([sample.weight for sample in samples], dtype=torch.float32)


def weighted(losses: Float[Tensor, " batch"], part: Part) -> Float[Tensor, " batch"]:
    """Each sample's loss times its weight."""
    return losses if part.weights is None else losses * part.weights.to(losses)


def step_parts(
    task: Task,
    loader: Loader,
    config: TrainConfig,
    first_step: int,
    rank: int,
    world: int,
    *,
    pin: bool = False,
) -> Iterator[list[Part]]:
    """The parts of every step from ``first_step`` on, for one worker, without end.

    ``pin`` puts them where a GPU copies from without holding the host up.
    """
    step = first_step
    while True:
        groups = loader.micro_batches(step, rank, world)
        if task.whole_batch:
            samples = [sample for _, group in groups for sample in group]
            groups = [(groups[0][0], sorted(samples, key=lambda sample: sample.position))]
        yield [
            Part(
                number,
                _pinned(collate(task, group, config.seed, "sample"), pin),
                len(group),
                weights_of(group, loader.has_weights),
            )
            for number, group in groups
        ]
        step += 1


def _pinned(batch: Batch, pin: bool) -> Batch:
    return {name: value.pin_memory() for name, value in batch.items()} if pin else batch


def validation_parts(
    task: Task,
    source: SampleSource,
    config: TrainConfig,
    num_samples: int,
    rank: int,
    world: int,
) -> list[Part]:
    """This worker's rows of the same few held-out samples, with the same draws at every moment.

    Every batch is dealt to all workers, since a contrastive loss looks across them; a last one
    with fewer rows than workers is left out. Empty where the split has too few samples.
    """
    places = source.held_out(config.seed, num_samples)
    total = len(places)
    size = config.global_batch_size if task.whole_batch else config.micro_batch_size * world
    parts = []
    for start in range(0, total, size):
        if min(size, total - start) < world:
            continue
        positions = range(start + rank, min(start + size, total), world)
        samples = [source.sample(i, *places[i].tolist()) for i in positions]
        batch = collate(task, samples, config.seed, "validation")
        weights = weights_of(samples, source.has_weights)
        parts.append(Part(start, batch, len(samples), weights))
    return parts
