"""How large the small web is, and how often it does what a real web does wrong."""

from typing import Literal

from pydantic import Field

from pipeline.config import StrictModel

MAX_HOSTS = 400


class FaultRates(StrictModel):
    """Pairs of every kind beside the good ones, as a fraction of ``num_pictures``.

    A rate above zero makes at least one pair of its kind.
    """

    dead_link: float = Field(default=0.02, ge=0, le=1)
    """The picture answers 404."""
    server_error: float = Field(default=0.01, ge=0, le=1)
    """The picture answers 500."""
    wrong_type: float = Field(default=0.015, ge=0, le=1)
    """A web page, sent as such, under the address of a picture."""
    mislabelled: float = Field(default=0.005, ge=0, le=1)
    """A web page, sent as ``image/jpeg``."""
    truncated: float = Field(default=0.015, ge=0, le=1)
    """A JPEG that ends half-way."""
    icon: float = Field(default=0.015, ge=0, le=1)
    """A picture of 16 to 32 px."""
    banner: float = Field(default=0.005, ge=0, le=1)
    """A picture six times as wide as high."""
    bomb: float = Field(default=0.0003, ge=0, le=1)
    """A few kilobytes that unpack to 144 million pixels."""
    exact_copy: float = Field(default=0.03, ge=0, le=1)
    """The same bytes at another address, with another caption."""
    near_copy: float = Field(default=0.03, ge=0, le=1)
    """The same picture, compressed again or shrunk, at another address."""
    boilerplate: float = Field(default=0.05, ge=0, le=1)
    """A good picture under a caption that many pictures share."""
    empty_alt: float = Field(default=0.02, ge=0, le=1)
    """A picture with ``alt=""``."""
    repeated_pair: float = Field(default=0.02, ge=0, le=1)
    """The same address and caption on a second page."""
    second_caption: float = Field(default=0.03, ge=0, le=1)
    """A second caption for the same address: a good pair."""
    robots_refused: float = Field(default=0.015, ge=0, le=1)
    """A picture below a path that robots.txt refuses."""
    noai_page: float = Field(default=0.02, ge=0, le=1)
    """A picture on a page that opts out, by ``<meta>`` or by header."""
    noai_header: float = Field(default=0.015, ge=0, le=1)
    """A picture sent with ``X-Robots-Tag: noai``."""
    redirect: float = Field(default=0.02, ge=0, le=1)
    """A picture behind one redirect: a good pair."""
    redirect_chain: float = Field(default=0.005, ge=0, le=1)
    """A picture behind three redirects, the last to another host: a good pair."""
    redirect_loop: float = Field(default=0.003, ge=0, le=1)
    """Two redirects that point at each other."""
    slow: float = Field(default=0.002, ge=0, le=1)
    """A picture that takes ``slow_s`` to come: a good pair."""
    gone_host: float = Field(default=0.01, ge=0, le=1)
    """A host whose name is not known any more."""
    private_address: float = Field(default=0.003, ge=0, le=1)
    """An address inside private or link-local networks, which a crawler must not touch."""
    broken_address: float = Field(default=0.003, ge=0, le=1)
    """An address that no crawler can fetch."""


class SmallWebExecution(StrictModel):
    """Where the web listens; changes no picture."""

    listen: Literal["loopback", "node"] = "loopback"
    """Where: ``node`` is the address by which a Ray cluster's other nodes reach this one, and
    anybody else too. A server that is started by itself listens on loopback."""
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes a free one."""


class SmallWebConfig(StrictModel):
    """A small web of captioned shapes, served on this machine."""

    type: Literal["small_web"]
    seed: int = Field(ge=0)
    """Decides every scene, caption, page and fault."""
    num_pictures: int = Field(ge=1, le=10_000_000)
    """Good pictures with descriptive captions; all faults come on top."""
    num_hosts: int = Field(default=40, ge=2, le=MAX_HOSTS)
    """Registered domains the pictures are spread over."""
    wallpaper_share: float = Field(default=0.5, ge=0, le=0.9)
    """Fraction of all pairs whose caption is one of the same popular query, "wallpaper"."""
    lettering_share: float = Field(default=0.0, ge=0, le=1, exclude_if=lambda value: value == 0.0)
    """Fraction of all scenes under a label with a word, of which captions say the word alone; the
    other scenes are the same for any share."""
    sample: float = Field(default=1.0, gt=0, le=1)
    """Share of the pictures that are used (``SourceSettings.sample``); below 1 a pilot."""
    slow_s: float = Field(default=0.3, ge=0, le=10)
    """Seconds a slow picture takes to come."""
    faults: FaultRates = Field(default_factory=FaultRates)
    execution: SmallWebExecution = Field(default_factory=SmallWebExecution)
