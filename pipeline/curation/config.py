"""Settings of curation's two stages; imports nothing heavy."""

from pydantic import Field, model_validator

from pipeline.candidates.config import CaptionFilterConfig
from pipeline.config import StrictModel
from pipeline.images.config import CrawlConfig, DecodeConfig, DedupConfig, FilterConfig
from pipeline.queries.config import BalanceConfig
from pipeline.shards.config import ShardsConfig

NUM_REJECTS = 12


class Prices(StrictModel):
    """What a pilot turns hours and bytes into; none is assumed."""

    per_cpu_hour: float | None = Field(default=None, ge=0)
    """Price of one virtual CPU for one hour; None leaves computing out of the cost."""
    per_gb: float | None = Field(default=None, ge=0)
    """Price of one stored gigabyte (10⁹ bytes) of shards and views; None leaves storage out."""


class StageExecution(StrictModel):
    """How a stage of curation runs; nothing here changes what comes out."""

    keep_working_files: bool = False
    """Keep what the steps handed on (matched candidates, decoded pool) when the stage is done."""


class BalanceStageConfig(BalanceConfig):
    """From candidates and a query list to the balanced pairs that shall be crawled."""

    captions: CaptionFilterConfig = CaptionFilterConfig()
    num_buckets: int = Field(ge=1)
    """Parts of what comes out, by hash of the registered domain: all pairs of a domain lie in one,
    and the crawl visits it from one task."""
    rejects_per_reason: int = Field(default=NUM_REJECTS, ge=0)
    """Rejected pairs per drop reason that are kept for inspection."""
    execution: StageExecution = StageExecution()


class CurateConfig(StrictModel):
    """From balanced pairs to deduplicated shards."""

    crawl: CrawlConfig
    decode: DecodeConfig = DecodeConfig()
    filters: FilterConfig
    dedup: DedupConfig = DedupConfig()
    shards: ShardsConfig
    execution: StageExecution = StageExecution()

    @model_validator(mode="after")
    def _check_sides(self) -> "CurateConfig":
        if self.filters.min_side_px > self.decode.pool_side_px:
            raise ValueError(
                f"filters.min_side_px={self.filters.min_side_px} is above "
                f"decode.pool_side_px={self.decode.pool_side_px}: nothing could pass"
            )
        return self
