"""Settings of curation's two stages; imports nothing heavy."""

from pydantic import Field, JsonValue, model_validator

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


class EnricherConfig(StrictModel):
    """A step of your own over decoded pictures and their captions (``curation/enrich.py``)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Of the entry point in the group ``unclip_pipeline.enrichers``."""
    version: str
    """Of the installed package that brings it; another one is refused, since results would
    differ."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Handed to it as they are."""


class BalanceStageConfig(BalanceConfig):
    """From candidates and a query list to the balanced pairs that shall be crawled."""

    captions: CaptionFilterConfig = CaptionFilterConfig()
    num_buckets: int = Field(ge=1)
    """Parts of what comes out, by hash of the registered domain: all pairs of a domain lie in one,
    and the crawl visits it from one task."""
    max_pictures_per_host: int | None = Field(default=None, ge=1)
    """Most pictures of one host, others fall as ``over_host_limit`` before queries are filled; None
    sets no limit. What a crawl gets of a host follows from ``crawl.per_host_budget`` and
    ``crawl.host_deadline_s``; its result lists the hosts that were too large as ``left_out``."""
    rejects_per_reason: int = Field(default=NUM_REJECTS, ge=0)
    """Rejected pairs per drop reason that are kept for inspection."""
    execution: StageExecution = StageExecution()


class CurateConfig(StrictModel):
    """From balanced pairs to deduplicated shards."""

    crawl: CrawlConfig
    decode: DecodeConfig = DecodeConfig()
    filters: FilterConfig
    enrichers: tuple[EnricherConfig, ...] = ()
    """Run in this order on what passed the filters, before duplicates are looked for."""
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
