"""What people shall compare, and where they find the page; imports nothing heavy."""

import ipaddress
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config import StrictModel

Question = Literal["photorealism", "caption", "diversity"]
QUESTIONS: tuple[Question, ...] = ("photorealism", "caption", "diversity")
"""In the order in which a rater is asked."""
GRID_SIDE = 4
"""Pictures per side of a grid whose diversity is judged (paper: 4 × 4)."""
MIN_TOKEN = 16


class StudyConfig(StrictModel):
    """Which pictures are compared; what a database of ratings is about, once and for all."""

    first: str
    """A system: a run's output folder, the folder of a finished stage ``generate``, or a folder of
    pictures (with captions in a text file of the same name beside each)."""
    second: str
    """What it is compared with."""
    questions: tuple[Question, ...] = Field(default=QUESTIONS, min_length=1)
    num_comparisons: int = Field(default=100, ge=1)
    """Comparisons per question that every rater is asked for, at most; fewer where there are not
    as many pictures."""
    seed: int = Field(default=0, ge=0)
    """Chooses pictures, their order and their sides."""

    @model_validator(mode="after")
    def _two_systems(self) -> "StudyConfig":
        if self.first.rstrip("/") == self.second.rstrip("/"):
            raise ValueError(f"both systems are {self.first}; name two different ones")
        return self


class PageConfig(StrictModel):
    """Where the page is."""

    host: str = "127.0.0.1"
    port: int = Field(default=8010, ge=0, le=65_535)
    """0 takes a free one."""
    token: str | None = None
    """Secret part of the link that raters are given; needed beyond this machine."""

    @model_validator(mode="after")
    def _public_pages_have_a_token(self) -> "PageConfig":
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise ValueError(f"the token has {len(self.token)} characters, at least {MIN_TOKEN}")
        if self.token is None and not _is_loopback(self.host):
            raise ValueError(
                f"host={self.host} can be reached by others, who would need no secret; set a token "
                f"of at least {MIN_TOKEN} characters, or host=127.0.0.1"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
