"""Settings of the shards; imports nothing heavy."""

from pydantic import Field, model_validator

from pipeline.config import StrictModel


class ShardsConfig(StrictModel):
    """How kept samples are laid out in files."""

    samples_per_shard: int = Field(default=10_000, ge=1)
    """Samples in one tar at most; each bucket of pairs (``balance.num_buckets``) with samples gives
    at least one tar."""
    views_px: tuple[int, ...] = (64, 256)
    """Sides of the square views kept beside the pool's pictures, for the models that read them."""
    rejects_per_reason: int = Field(default=12, ge=0)
    """Rejected pairs per drop reason that are kept for inspection."""

    @model_validator(mode="after")
    def _check_views(self) -> "ShardsConfig":
        if len(set(self.views_px)) < len(self.views_px) or any(side < 8 for side in self.views_px):
            raise ValueError(f"views_px={self.views_px}: distinct sides of at least 8 are needed")
        return self
