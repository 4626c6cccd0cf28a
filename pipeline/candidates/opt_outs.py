"""What a page says about the use of its pictures: the ``robots`` meta element and X-Robots-Tag.

``noai``, ``noimageai``, ``noindex``, ``noimageindex`` and ``none`` (which includes noindex) opt
out. A directive addressed to one crawler (``X-Robots-Tag: otherbot: noai``,
``<meta name="otherbot" content="noai">``) counts as well, whoever the addressee is: a page that
refuses one crawler is left alone by ours.
"""

import re
from collections.abc import Iterable

OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
ROBOTS_HEADER = "x-robots-tag"

_ADDRESSEE = re.compile(
    r"robots|.*(?:bot|spider|crawler|slurp)(?:-.*)?|(?:.*-)?ai|(?:google|claude|gpt|img2dataset).*"
)


def header_opts_out(values: Iterable[str]) -> bool:
    """Whether any of a response's X-Robots-Tag values opts out.

    Args:
        values: One string per header line: directives by comma, each perhaps after ``agent:``.
    """
    return any(_holds_opt_out(value) for value in values)


def meta_opts_out(name: str, content: str) -> bool:
    """Whether a page's meta element addresses crawlers and opts out."""
    return bool(_ADDRESSEE.fullmatch(name.strip().lower())) and _holds_opt_out(content)


def _holds_opt_out(value: str) -> bool:
    directives = (part.rpartition(":")[2].strip().lower() for part in re.split("[,;]", value))
    return any(directive in OPT_OUTS for directive in directives)
