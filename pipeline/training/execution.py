"""How a training runs: on how many workers, on what, beside what; imports nothing heavy.

No field here changes what comes out, beyond the rounding of sums.
"""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config import StrictModel


class ShardCacheConfig(StrictModel):
    """Copies of an object store's files on each node's own disk."""

    path: str = Field(min_length=1)
    """A folder of the node; all workers of the node, and other runs, may share it."""
    max_bytes: int = Field(ge=1)
    """Of all its files together; those used longest ago make room."""


class TrainExecution(StrictModel):
    """How to run; no field here changes what comes out, beyond the rounding of sums."""

    num_workers: int = Field(ge=0)
    """Training processes; each owns lanes of the data. 0 trains inside the job's own process, which
    spares the minute that a worker group takes to start on a small machine."""
    min_workers: int | None = Field(default=None, ge=1)
    """Training goes on with as few while others are lost, and with more when there is room again;
    None waits until there are ``num_workers``."""
    max_failures: int = Field(default=3, ge=0)
    """Worker groups that may fail within one call, beside those whose node was taken away."""
    grace_s: float = Field(default=60.0, gt=0)
    """Seconds after SIGTERM in which the workers write a last checkpoint."""
    threads: int = Field(ge=1)
    """Torch threads, and CPUs, per worker."""
    decoders: int = Field(default=0, ge=0)
    """Processes per worker, one core each, that read shards and make samples of them, each from
    lanes of its own; 0 does it in a thread of the worker."""
    decode_on: Literal["worker", "cluster"] = "worker"
    """Decoders are processes of their worker, or Ray actors on whichever nodes have a CPU free."""
    shard_cache: ShardCacheConfig | None = None
    """Keeps what is read of data sets on object stores; None fetches it again when it is needed.
    Files of this machine are never copied."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """1 trains on GPUs, one per worker."""
    strategy: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    """Every worker holds the whole model (ddp), or a part of each parameter: cut over all workers
    (fsdp), or over groups of ``shard_workers`` that hold the same (hsdp)."""
    shard_workers: int | None = Field(default=None, ge=1)
    """Workers that hold one model together under hsdp, such as those of a node; divides their
    number."""
    validate_on: Literal["worker", "side"] = "worker"
    """Workers look at held-out samples and draw pictures themselves, and training stands still so
    long; or a Ray task of its own does, on whichever node has ``threads`` CPUs free, and training
    goes on. The numbers are the same."""
    validate_gpus: int = Field(default=0, ge=0, le=1)
    """1 gives that task a GPU of its own."""
    checkpoint_every_s: float = Field(gt=0)
    """Seconds between checkpoints; one that is due while another is being written waits for it."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Complete checkpoints that are kept, the newest."""
    activation_checkpointing: bool = False
    """Blocks keep their inputs alone and compute again going backwards: less memory, about a third
    more time."""
    compile_blocks: bool = False
    """Repeated blocks are compiled by ``torch.compile``: a slow first step, faster ones after."""

    @model_validator(mode="after")
    def _groups_are_stated(self) -> "TrainExecution":
        if (self.strategy == "hsdp") != (self.shard_workers is not None):
            raise ValueError(
                f"shard_workers={self.shard_workers} with strategy={self.strategy}: hsdp needs the "
                "number, such as the workers of a node, and the others have none"
            )
        if self.shard_workers and self.num_workers % self.shard_workers:
            raise ValueError(
                f"num_workers={self.num_workers} is not a multiple of "
                f"shard_workers={self.shard_workers}"
            )
        return self

    @model_validator(mode="after")
    def _decoders_are_stated(self) -> "TrainExecution":
        if self.decode_on == "cluster" and not self.decoders:
            raise ValueError("decode_on=cluster with decoders=0: say how many each worker has")
        return self

    @model_validator(mode="after")
    def _a_gpu_has_a_user(self) -> "TrainExecution":
        if self.validate_gpus and self.validate_on == "worker":
            raise ValueError("validate_gpus=1 with validate_on=worker: say validate_on=side")
        return self

    @model_validator(mode="after")
    def _fewer_are_fewer(self) -> "TrainExecution":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers={self.min_workers} is above num_workers={self.num_workers}"
            )
        if self.min_workers is not None and self.strategy == "hsdp":
            raise ValueError(
                f"min_workers={self.min_workers} allows numbers of workers that do not divide into "
                "groups; leave it out, or use strategy fsdp"
            )
        return self


class LinearPriorExecution(StrictModel):
    """How to run; no field here changes what comes out."""

    threads: int = Field(default=1, ge=1)
    """Threads of the sums."""
