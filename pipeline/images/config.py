"""Settings of the crawl, the decoder, the filters and the search for duplicates."""

import re

from pydantic import Field, field_validator

from pipeline.config import StrictModel

CONTACT = re.compile(r"\+https?://\S+|[^\s@]+@[^\s@]+\.[^\s@]+")
PRODUCT = re.compile(r"[A-Za-z_-]+")


class CrawlExecution(StrictModel):
    """How the crawl runs; nothing here changes what is fetched."""

    max_transfers: int = Field(default=64, ge=1)
    """Transfers in flight per partition, over all hosts; bounds memory with ``max_bytes``."""
    resolve: dict[str, str] = Field(default_factory=dict)
    """Host pattern (``*.example`` or a name) → ``ip:port`` that answers for it. For small webs on
    this machine: the addresses in the data stay the same whichever port is free."""

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
    """Time for one picture over all its requests, redirects and retries; waiting for the host's
    turn and pauses between retries do not count."""
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Longest body that is read to its end."""
    max_redirects: int = Field(default=5, ge=0)
    """Redirects followed per picture; each target is checked like a first address."""
    per_host_concurrency: int = Field(default=2, ge=1)
    """Requests in flight to one host."""
    per_host_delay_s: float = Field(default=0.5, ge=0)
    """Least time between the starts of two requests to one host."""
    num_retries: int = Field(default=2, ge=0)
    """Further attempts after a failure that may pass: no connection, 408, 425, 429, 5xx."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Pause before the first retry; it doubles each time. A longer Retry-After is obeyed, unless
    it exceeds ``deadline_s``: then the picture fails now."""
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


class DecodeConfig(StrictModel):
    """What counts as a picture, and the form in which the pool keeps it."""

    max_pixels: int = Field(default=64_000_000, ge=1)
    """Width × height as the header states it; larger ones are not decoded."""
    pool_side_px: int = Field(default=1024, ge=16)
    """Longer side of a kept picture; larger ones are scaled down."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Quality of pictures that cannot be kept in their original bytes (4:4:4)."""


class FilterConfig(StrictModel):
    """Thresholds of the cheap filters of pictures."""

    min_side_px: int = Field(ge=1)
    """Least shorter side of the received picture."""
    max_aspect_ratio: float = Field(default=3.0, ge=1)
    """Largest longer side / shorter side."""


class DedupConfig(StrictModel):
    """When two pictures count as the same."""

    max_hamming: int = Field(default=4, ge=0, le=15)
    """Largest number of differing bits of two 64-bit perceptual hashes."""
    max_colour_difference: int = Field(default=6, ge=0, le=255)
    """Largest difference (levels of 255) in any channel of any cell of two 8 × 8 thumbnails. The
    hash sees luminance alone: a red and a green disc of equal luminance share it."""
