"""How shards are embedded; imports nothing heavy."""

from pydantic import Field

from pipeline.config import StrictModel


class EmbedExecution(StrictModel):
    """How to run; no field here changes what comes out."""

    num_actors: int = Field(ge=1)
    """Ray actors, each holding one CLIP."""
    threads_per_actor: int = Field(ge=1)
    """CPUs and torch threads of one actor; all actors together take less than the cluster has."""


class EmbedConfig(StrictModel):
    """CLIP embeddings beside each shard."""

    batch_size: int = Field(ge=1)
    """Pictures, and captions, of one forward pass. The last batch of a shard is padded to it, so
    that every row is computed in the same shape: part of the result, not of its execution."""
    execution: EmbedExecution
