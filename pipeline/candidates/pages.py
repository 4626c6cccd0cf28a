"""What a page of a web archive shows, whichever kind of archive it is read from."""

from dataclasses import dataclass
from typing import NamedTuple

MAX_LANGUAGE_CHARS = 64
"""Language tags are shorter (RFC 5646 §4.4.1 asks for 35); every picture of a page carries one."""


class Picture(NamedTuple):
    """One ``<img>``."""

    address: str
    """As the page writes it, entities unescaped."""
    text: str
    language: str | None
    """As the page writes it, such as ``en-GB``."""


@dataclass(frozen=True, slots=True)
class Page:
    """One HTML page with its pictures."""

    url: str
    base: str
    """``href`` of its ``<base>``, empty where it has none: what relative addresses refer to."""
    pictures: list[Picture]
    opts_out: bool
    """Whether the page refuses the use of its pictures."""


def language_tag(written: str) -> str | None:
    """A ``lang`` attribute's value; None where it is empty, which says unknown, or no tag."""
    return written if 0 < len(written) <= MAX_LANGUAGE_CHARS else None
