"""How shards are embedded; imports nothing heavy."""

from typing import Literal

from pydantic import Field

from pipeline.config import StrictModel


class EmbedExecution(StrictModel):
    """How to run; no field here decides which numbers are meant."""

    num_actors: int = Field(ge=1)
    """Ray actors, each holding one CLIP."""
    threads_per_actor: int = Field(ge=1)
    """CPUs and torch threads of one actor."""
    decoders_per_actor: int = Field(default=0, ge=0)
    """Further CPUs of one actor, whose threads decode pictures while CLIP computes; 0 decodes and
    computes in turn. CPUs of all actors together take less than the cluster has."""
    gpus_per_actor: float = Field(default=0, ge=0)
    """GPUs of one actor, where CLIP then computes (in bfloat16 if the GPU has it); 0 computes on
    CPUs in float32."""

    @property
    def cpus_per_actor(self) -> int:
        """CPUs that one actor takes."""
        return self.threads_per_actor + self.decoders_per_actor


class EmbedConfig(StrictModel):
    """CLIP embeddings beside each shard."""

    batch_size: int = Field(ge=1)
    """Pictures, and captions, of one forward pass. The last batch of a shard is padded to it, so
    that every row is computed in the same shape: part of the result, not of its execution."""
    pictures: Literal["view", "shard"] = "view"
    """``view``: the smallest stored view whose side is a multiple of CLIP's, shrunk by box means,
    as the run's own CLIP learnt. ``shard``: the shards' own pictures, whose centred square is
    scaled (bicubic) as open_clip's weights expect; needs no view of CLIP's side."""
    execution: EmbedExecution
