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
from pipeline.shards.disk_cache import DiskCache
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList
from pipeline.shards.loader import Loader, Sample, SampleSource, Share
from pipeline.shards.mixture import MixedSource
from pipeline.shards.shard_source import ShardSource
from pipeline.training.config import TrainConfig
from pipeline.training.tasks import Task

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class DataPlace:
    """Where a training reads; small and picklable, opened by every worker for itself."""

    curated_uri: str
    keep: KeepList
    embedded_uri: str | None = None

    def source(
        self, task: Task, split: str, *, cache_bytes: int, disk: DiskCache | None = None
    ) -> ShardSource:
        """Open one split as a task wants to read it.

        Args:
            task: Says what it reads of a sample.
            split: ``train``, ``validation`` or ``test``.
            cache_bytes: Memory for shards and decoded pictures beyond what coming steps need.
            disk: Where files from elsewhere are kept, or None.

        Raises:
            ConfigError: The task needs embeddings, and there are none.
        """
        curated = CuratedDataset.open(self.curated_uri, disk)
        embedded = self._embedded(curated) if task.needs_embeddings else None
        return ShardSource(
            curated,
            self.keep,
            split,
            view_px=task.view_px,
            image_px=task.image_px,
            embedded=embedded,
            cache_bytes=cache_bytes,
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

    def source(
        self, task: Task, split: str, *, cache_bytes: int, disk: DiskCache | None = None
    ) -> MixedSource:
        """Open one split of every place; the memory is shared out by their quotas.

        Raises:
            ConfigError: The task needs embeddings, and a place has none.
        """
        total = sum(self.quotas)
        sources = [
            place.source(task, split, cache_bytes=cache_bytes * quota // total, disk=disk)
            for place, quota in zip(self.places, self.quotas, strict=True)
        ]
        return MixedSource(sources, self.quotas)


def collate(task: Task, samples: list[Sample], seed: int, purpose: str) -> Batch:
    """Prepare samples, each with the generator of its position, and stack them."""
    streams = draws.Streams(draws.hash64(seed, purpose))
    rows = [task.prepare(sample, streams.at(sample.position)) for sample in samples]
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
    share = Share(rank, world, by_position=task.whole_batch)
    for samples in loader.read(share, first_step):
        yield [
            Part(
                number,
                _pinned(collate(task, samples[rows], config.seed, "sample"), pin),
                rows.stop - rows.start,
                weights_of(samples[rows], loader.has_weights),
            )
            for number, rows in groups_of(loader, share)
        ]


def groups_of(loader: Loader, share: Share) -> list[tuple[int, slice]]:
    """What is computed at once of a worker's rows: the (first) micro-batch, and its rows."""
    numbers, size = loader.owned(share.rank, share.world), loader.micro_batch_size
    if share.by_position:
        return [(numbers[0], slice(0, size * len(numbers)))]
    return [(number, slice(size * i, size * (i + 1))) for i, number in enumerate(numbers)]


def _pinned(batch: Batch, pin: bool) -> Batch:
    return {name: value.pin_memory() for name, value in batch.items()} if pin else batch


def held_out_batch(task: Task, source: SampleSource, config: TrainConfig, num: int) -> Batch | None:
    """The first few held-out samples in one batch, the same for every worker; None without any.

    Args:
        task: Prepares them.
        source: The split's samples.
        config: Its seed chooses the samples and their draws, as for `validation_parts`.
        num: Samples, at most.
    """
    places = source.held_out(config.seed, num).tolist()
    samples = [source.sample(index, *place) for index, place in enumerate(places)]
    return collate(task, samples, config.seed, "validation") if samples else None


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
