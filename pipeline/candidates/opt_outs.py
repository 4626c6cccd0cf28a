"""What a page says about the use of its pictures: robots meta elements and X-Robots-Tag.

``noai``, ``noimageai``, ``noindex`` and ``noimageindex`` opt out, whoever is addressed
(``X-Robots-Tag: otherbot: noai``, ``<meta name="otherbot" content="noai">``): a page that refuses
one crawler is left alone by ours. ``none`` includes noindex; as other fields use the word as well,
it counts where it addresses robots, by no name or one that is known for a robot's. As the value of
another directive (``max-image-preview: none``) no word opts out.

The name of a meta element addresses crawlers where it is known for a robot's, or where it could be
an agent's (RFC 9309 §2.2.1: letters, ``-`` and ``_``; here digits too) and the whole content is a
list of robots directives. Names that HTML gives another meaning (``NO_AGENTS``) address nobody:
the keywords of an article about search engines may well be ``noindex, nofollow``.
"""

import re
from collections.abc import Iterable, Iterator

ROBOTS_HEADER = "x-robots-tag"
NONE = "none"
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
DIRECTIVES = OPT_OUTS | {
    *(NONE, "all", "index", "follow", "nofollow", "archive", "noarchive", "nocache", "snippet"),
    *("nosnippet", "notranslate", "noodp", "noydir", "imageindex", "indexifembedded", "noml"),
}
WITH_VALUE = frozenset(
    {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}
)
NO_AGENTS = frozenset(
    {
        *("application-name", "author", "description", "generator", "keywords", "news_keywords"),
        *("referrer", "theme-color", "color-scheme", "viewport", "title", "subject", "abstract"),
        *("topic", "summary", "category", "classification", "copyright", "rating", "tags"),
    }
)
MAX_AGENT_CHARS = 100
"""Longer names are no robot's."""

_PERHAPS = re.compile("no", re.IGNORECASE)
"""In every directive that opts out."""
_SEPARATORS = re.compile(r"[,; ]+")
_AGENT = re.compile(r"[a-z0-9_-]+")
_ROBOT = re.compile(
    r"robots|.*(?:bot|spider|crawler|slurp|archiver)(?:-.*)?|(?:.*-)?ai|.*-(?:user|externalagent)|"
    r"(?:google|claude|gpt|chatgpt|img2dataset|omgili|facebookexternalhit).*"
)


def header_opts_out(values: Iterable[str]) -> bool:
    """Whether any of a response's X-Robots-Tag values opts out.

    Args:
        values: One string per header line: directives by comma, each perhaps after ``agent:``.
    """
    return any(_to_robots(value) for value in values if _PERHAPS.search(value))


def meta_opts_out(name: str, content: str) -> bool:
    """Whether a page's meta element addresses crawlers and opts out."""
    if not _PERHAPS.search(content):
        return False
    agent = name.strip().lower()
    if _is_robot(agent):
        return _to_robots(content)
    if agent in NO_AGENTS or not _AGENT.fullmatch(agent):
        return False
    words = [word for _, word in _directives(content)]
    return all(word in DIRECTIVES for word in words) and not OPT_OUTS.isdisjoint(words)


def _to_robots(value: str) -> bool:
    """Whether a list of directives that addresses robots opts out."""
    return any(
        word in OPT_OUTS or (word == NONE and (not agent or _is_robot(agent)))
        for agent, word in _directives(value)
    )


def _is_robot(agent: str) -> bool:
    return len(agent) <= MAX_AGENT_CHARS and _ROBOT.fullmatch(agent) is not None


def _directives(value: str) -> Iterator[tuple[str, str]]:
    """Directives without a value, each after the name that is written before it, or none."""
    spaced = " ".join(value.lower().split())
    for part in _SEPARATORS.split(spaced.replace(" :", ":").replace(": ", ":")):
        *before, word = part.split(":")
        if word and WITH_VALUE.isdisjoint(before):
            yield (before[-1] if before else ""), word
