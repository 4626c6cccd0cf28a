"""Settings of the crawl, the decoder, the filters and the search for duplicates."""

import re
from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import StrictModel

CONTACT = re.compile(r"\+https?://\S+|[^\s@]+@[^\s@]+\.[^\s@]+")
PRODUCT = re.compile(r"[A-Za-z_-]+")


class CrawlExecution(StrictModel):
    """How the crawl runs; nothing here changes what is fetched."""

    max_transfers: int = Field(default=256, ge=1)
    """Transfers in flight per partition, over all hosts."""
    max_large_transfers: int = Field(default=16, ge=1)
    """Bodies above 1 MiB in memory at once: what bodies hold stays below ``max_transfers`` × 1 MiB
    + this × ``max_bytes`` per partition."""
    nameservers: tuple[str, ...] = ()
    """``ip`` or ``ip:port`` of the name servers to ask; none stands for the system's own. A large
    crawl wants a caching one on its own machine."""
    resolve: dict[str, str] = Field(default_factory=dict)
    """Host pattern (``*.example`` or a name) → ``ip:port`` that answers for it. For small webs on
    this machine: the addresses in the data stay the same whichever port is free."""

    opt_out_ledger: str | None = None
    """Folder in which crawls remember what opted out, and never ask for it again; of a run it is
    ``opt_outs`` in its output folder unless another is named. An answer that is remembered is the
    same answer, so that no result depends on it."""
    local_root: str | None = None
    """Folder that ``file:///`` addresses are read from, set where a run's source is that folder;
    None refuses them."""

    @field_validator("resolve")
    @classmethod
    def _check_targets(cls, value: dict[str, str]) -> dict[str, str]:
        for pattern, target in value.items():
            host, _, port = target.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{pattern} → {target!r} is not ip:port")
        return value


class CrawlConfig(StrictModel):
    """Who we are on the web, where we may go, and how much we take."""

    user_agent: str
    """``Product/1.0 (+https://where.to/complain)``: an honest name with a contact address."""
    ports: tuple[int, ...] = (80, 443)
    """Ports that may be contacted."""
    allow_private_hosts: tuple[str, ...] = ()
    """``host`` or ``host:port`` that may be a private address and, with a port, use that port."""
    deadline_s: float = Field(default=30.0, gt=0)
    """Time for one picture over all its requests, redirects and retries, waiting for memory for a
    large body included; waiting for the host's turn and pauses between retries do not count."""
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Longest body that is read to its end."""
    max_redirects: int = Field(default=5, ge=0)
    """Redirects followed per picture; each target is checked like a first address."""
    per_host_concurrency: int = Field(default=2, ge=1)
    """Requests in flight to one host, from the partition of the crawl to which it belongs; one
    more from each partition that redirects lead out of."""
    per_host_delay_s: float = Field(default=0.5, ge=0)
    """Least time between the starts of two requests to one host; a longer Crawl-delay of its
    robots.txt is obeyed."""
    max_crawl_delay_s: float = Field(default=300.0, ge=0)
    """Longest Crawl-delay that is waited for; a host that asks for more is left out as
    ``over_host_budget``."""
    per_host_budget: int = Field(default=50_000, ge=3)
    """Most requests to one host in one pass: robots.txt, redirects and retries included. Where the
    crawl has several partitions (``balance.num_buckets``), the host's own takes half of it, and the
    others share the rest, for redirects that lead to it."""
    host_deadline_s: float = Field(default=43_200.0, gt=0)
    """Time that one host may take in one pass. Its budget is no more than what fits at its delay;
    pictures beyond are left out as ``over_host_budget``, reported per host."""
    num_retries: int = Field(default=2, ge=0)
    """Further attempts, within the deadline, after a failure that may pass (``failures.py``)."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Pause before the first retry; it doubles each time and is varied by up to half. A longer
    Retry-After is obeyed; one beyond ``deadline_s`` ends the host's pictures for this pass."""
    num_passes: int = Field(default=2, ge=1, le=5)
    """Passes over the whole crawl: each further one asks for what failed in a way that may pass,
    and for nothing else."""
    sha256_column: str | None = None
    """Carried column of the candidates that states the sha256 of each picture's bytes; None where
    there is none. What matches is recorded in the crawl log."""
    refuse_sha256_mismatch: bool = True
    """Whether bytes that differ from ``sha256_column`` are dropped as ``sha256_mismatch``."""
    earlier_crawls: tuple[str, ...] = ()
    """Folders of finished curate stages. What they hold is re-checked by ETag and left out as
    ``unchanged``; what is wrong with an address for good keeps its reason
    (``curation.memory.FINAL``); all else is fetched."""
    execution: CrawlExecution = CrawlExecution()

    @field_validator("user_agent")
    @classmethod
    def _check_user_agent(cls, value: str) -> str:
        if not PRODUCT.match(value) or not CONTACT.search(value) or not value.isascii():
            raise ValueError(
                "needs a product name first and a contact, as in 'MyBot/1.0 (+https://my.org/bot)'"
            )
        return value

    @property
    def product(self) -> str:
        """The product token that robots.txt and X-Robots-Tag address, such as ``unclipbot``."""
        match = PRODUCT.match(self.user_agent)
        assert match is not None
        return match.group().lower()


ResizeMode = Literal["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"]


class DecodeConfig(StrictModel):
    """What counts as a picture, and the form in which the pool keeps it."""

    max_pixels: int = Field(default=64_000_000, ge=1)
    """Width × height as the header states it; larger ones are not decoded. It also bounds the
    memory of the process that decodes (``decode_child``)."""
    cpu_deadline_s: float = Field(default=20.0, gt=0)
    """CPU time for one picture, from its bytes to what is kept; the process that needs more is
    killed and the picture dropped."""
    pool_side_px: int = Field(default=1024, ge=16)
    """Side of a kept picture; which one, ``resize_mode`` says. Smaller pictures stay as they are
    while ``resize_only_if_bigger``."""
    resize_mode: ResizeMode = "keep_ratio_largest"
    """As img2dataset names them. ``keep_ratio_largest``: the longer side becomes ``pool_side_px``;
    ``keep_ratio``: the shorter one does; ``center_crop``: likewise, and what is over is cut off;
    ``border``: the longer one, and white is put around; ``no``: nothing is scaled."""
    resize_only_if_bigger: bool = True
    """Leave a picture alone whose side is at most ``pool_side_px`` already."""
    downscale: Literal["lanczos", "hamming", "area", "bilinear"] = "lanczos"
    """``lanczos``: three lobes that widen with the reduction, sharpest; ``hamming``: one lobe that
    does, as views are made, in a third of the time; ``area``: plain means, pixel for pixel
    img2dataset's; ``bilinear``: two taps where a picture is at most halved, as behind a JPEG
    decoder that skips pixels (``dct_margin``), else plain means: in a quarter of the time, there as
    near to plain means as ``hamming``, but fine stripes may alias. Enlarging is always as
    img2dataset does it (eight-tap Lanczos)."""
    dct_margin: float | None = Field(default=None, ge=1)
    """Let the JPEG decoder halve a picture up to three times, as long as its sides stay at least
    this many times those it is scaled to; None decodes everything in full. The quality bound: at 2,
    photographs differ from those decoded in full by a PSNR of at least 38 dB, half of them 48."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Quality of pictures that cannot be kept in their original bytes (4:4:4)."""


class FilterConfig(StrictModel):
    """Thresholds of the cheap filters of pictures."""

    min_bytes: int = Field(default=0, ge=0)
    """Least length of the received file; LAION asked for 5,000."""
    min_side_px: int = Field(ge=1)
    """Least shorter side of the received picture."""
    max_aspect_ratio: float = Field(default=3.0, ge=1)
    """Largest longer side / shorter side."""
    block_lists: tuple[str, ...] = ()
    """Files of pictures that shall not be taken, local or on an object store: one hash per line in
    hex, told by its length: MD5 (32 digits) or SHA-256 (64) of the received bytes, or the
    perceptual hash (16, as in the column ``phash`` of shards). After a ``#`` comes a comment."""
    block_max_hamming: int = Field(default=4, ge=0, le=15)
    """Largest number of bits by which a perceptual hash may differ from a listed one."""


class DedupConfig(StrictModel):
    """When two pictures count as the same."""

    max_hamming: int = Field(default=4, ge=0, le=15)
    """Largest number of differing bits of two 64-bit perceptual hashes."""
    max_colour_difference: int = Field(default=6, ge=0, le=255)
    """Largest difference (levels of 255) in any channel of any cell of two 8 × 8 thumbnails. The
    hash sees luminance alone: a red and a green disc of equal luminance share it."""
