"""Settings of a crawl by img2dataset in place of our own; imports nothing heavy."""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import StrictModel
from pipeline.images.config import DedupConfig, ResizeMode
from pipeline.shards.adopt_config import AdoptConfig, AdoptExecution

CARRIED = ("sha256", "page_url")
"""Fields of its samples that stay with ours, as ``source_…`` where we have a column of that
name."""


class Img2datasetExecution(StrictModel):
    """How img2dataset runs; nothing here changes what is fetched."""

    processes: int = Field(default=2, ge=1)
    """Its processes, on the machine of the job; Ray's workers have no part in the download."""
    threads: int = Field(default=32, ge=1)
    """Downloads at once in each process."""
    keep_working_files: bool = False
    """Keep what adopting its shards handed on when the stage is done."""


class Img2datasetConfig(StrictModel):
    """img2dataset downloads the balanced pairs; its shards are adopted as the stage ``curate``.

    For lists of addresses that are trusted, and users of img2dataset who want its pictures to the
    pixel. It lacks what our own crawl guarantees: no network guard (private, loopback and
    ``file:`` addresses are fetched, redirects followed anywhere), no robots.txt and no pause
    between requests to a host (``X-Robots-Tag`` is obeyed), no limit of bytes or pixels, a timeout
    that counts anew for every read, no child that a hostile picture may kill, EXIF orientation
    lost. It goes on after a kill shard by shard, not address by address; order and bytes of its
    tars differ from run to run. Duplicates are found and share a cluster; none is dropped.
    """

    trusts_every_address: Literal[True]
    """Must be stated: whoever wrote the list decides what this machine connects to."""
    image_side_px: int = Field(ge=16)
    """Side of a kept picture; which one, ``resize_mode`` says."""
    resize_mode: ResizeMode
    """img2dataset's, and ours of the same names (``curate.decode.resize_mode``)."""
    resize_only_if_bigger: bool = True
    """Leave a picture's size alone where it is small enough already."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Every picture is encoded anew."""
    min_side_px: int = Field(default=0, ge=0)
    """Least shorter side of the received picture."""
    max_aspect_ratio: float = Field(default=3.0, ge=1)
    """Largest longer side / shorter side."""
    timeout_s: int = Field(default=10, ge=1)
    """For connecting and for each read of an answer; not for the whole of it."""
    retries: int = Field(default=0, ge=0)
    """Further attempts after any failure, at once."""
    user_agent_token: str | None = None
    """Put behind the browser's name under which img2dataset asks; obeyed in ``X-Robots-Tag``."""
    samples_per_shard: int = Field(default=10_000, ge=2)
    """Addresses per tar: it holds fewer pictures where some fail."""
    dedup: DedupConfig = DedupConfig()
    """When two pictures share a cluster, so that no split parts them."""
    views_px: tuple[int, ...] = (64, 256)
    """Sides of the square views that are made, for the models that read them."""
    execution: Img2datasetExecution = Img2datasetExecution()

    @field_validator("views_px")
    @classmethod
    def _check_views(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sides)) < len(sides) or any(side < 8 for side in sides):
            raise ValueError(f"views_px={sides}: distinct sides of at least 8 are needed")
        return sides

    def adopting(self, path: str) -> AdoptConfig:
        """How its shards below ``path`` are adopted."""
        return AdoptConfig(
            type="webdataset",
            path=path,
            caption_fields=("captions",),
            licence_field="licence",
            carried_fields=CARRIED,
            dedup=self.dedup,
            views_px=self.views_px,
            # Manifests beside them would be taken for its own statistics.
            execution=AdoptExecution(
                manifests_beside=False, keep_working_files=self.execution.keep_working_files
            ),
        )
