"""Settings of curation as a whole; imports nothing heavy."""

from pydantic import model_validator

from pipeline.config import StrictModel
from pipeline.images.config import CrawlConfig, DecodeConfig, DedupConfig, FilterConfig
from pipeline.queries.config import BalanceConfig
from pipeline.shards.config import ShardsConfig


class CurateExecution(StrictModel):
    """How curation runs; nothing here changes what comes out."""

    keep_pool: bool = False
    """Keep the working files (matched candidates, decoded pool) after the shards are written."""


class CurateConfig(StrictModel):
    """From candidates and a query list to deduplicated shards."""

    balance: BalanceConfig
    crawl: CrawlConfig
    decode: DecodeConfig = DecodeConfig()
    filters: FilterConfig
    dedup: DedupConfig = DedupConfig()
    shards: ShardsConfig
    execution: CurateExecution = CurateExecution()

    @model_validator(mode="after")
    def _check_sides(self) -> "CurateConfig":
        if self.filters.min_side_px > self.decode.pool_side_px:
            raise ValueError(
                f"filters.min_side_px={self.filters.min_side_px} is above "
                f"decode.pool_side_px={self.decode.pool_side_px}: nothing could pass"
            )
        return self
