"""What every training worker is told: plain values that travel to its process."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.shards.disk_cache import DiskCache
from pipeline.training.batches import DataPlace, MixedPlace
from pipeline.training.config import TrainConfig
from pipeline.training.tasks import Task


@dataclass(frozen=True)
class LoopSettings:
    """One run; of the fields with a default only the two starts change the published weights."""

    config: TrainConfig
    stage: str
    """Kind of model, for the weights file."""
    task: Task
    data: DataPlace | MixedPlace
    uri: str
    """Folder of the stage."""
    published_config: dict[str, Any] = field(default_factory=dict)
    """What the weights file carries: the whole configuration that rebuilds the model."""
    start_uri: str | None = None
    """Weights that a warm start begins with."""
    branch_uri: str | None = None
    """Checkpoint of another training from which this one goes on."""
    num_moments: int = 4
    """Moments with validation loss and pictures, the end included."""
    validation_samples: int = 256
    max_nonfinite_steps: int = 5
    """So many steps in a row without a finite gradient stop the run."""
    cache_bytes: int = 1 << 30
    """Memory per worker for shards and decoded pictures beyond the open shards."""
    device: str = "cpu"
    """Where a worker computes: cpu, or its own GPU."""
    asked_s: float | None = None
    """Unix time at which the driver was asked to train."""
    flops_per_sample: float | None = None
    """Operations of one sample in training, where somebody has counted them."""

    @property
    def disk_cache(self) -> DiskCache | None:
        """Where this node keeps files of object stores."""
        found = self.config.execution.shard_cache
        return None if found is None else DiskCache(found.path, found.max_bytes)

    @property
    def num_steps(self) -> int:
        """Optimiser steps; the last one is whole even where ``samples`` ends within it."""
        return -(-self.config.samples // self.config.global_batch_size)
