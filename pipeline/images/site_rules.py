"""What a site says about crawlers and text and data mining, in its headers and its own files.

robots.txt (RFC 9309, with the customary Crawl-delay) and ``/.well-known/tdmrep.json`` (W3C
community group's TDM Reservation Protocol) are read once per origin and kept.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from protego import Protego

from pipeline.images import failures
from pipeline.images.network_guard import DEFAULT_PORTS

MAX_FILE_BYTES = 512_000
"""RFC 9309, 2.5: at least 500 KiB are read; what follows is ignored."""
ROBOTS_PATH = "/robots.txt"
TDMREP_PATH = "/.well-known/tdmrep.json"

OPT_OUT = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex", "none"})
"""Directives of X-Robots-Tag that keep a picture out of a data set."""
VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives that carry a value after a colon, so that their colon names no agent."""
AGENT = re.compile(r"(\*|[a-z_-]+)(/\S*)?")
"""A product token and perhaps a version, in lower case."""
ROBOTS_LINE = re.compile(r"\s*(user-agent|allow|disallow|crawl-delay)\s*:([^#]*)", re.IGNORECASE)
MAX_RESERVATIONS, MAX_STARS = 1_000, 2_000
"""Of a tdmrep.json: rules, and stars in all locations. What goes beyond is taken for a reservation
of everything: working it out would hold up all other sites."""
OURSELVES, NOBODY = "ourselves", "nobody"
"""Agents in the copy of a robots.txt that is parsed: no token is a prefix of another."""


def opted_out(header_values: Iterable[str], product: str) -> bool:
    """Whether ``X-Robots-Tag`` headers opt the picture out, for everyone or for our agent.

    Args:
        header_values: All values of the header, such as ``noai, noimageai`` or
            ``otherbot: noindex``. A name before a colon scopes what follows it.
        product: Our product token in lower case.
    """
    for value in header_values:
        addressed = True
        for raw in value.lower().split(","):
            directive = raw.strip()
            name, colon, rest = directive.partition(":")
            agent = AGENT.fullmatch(name.strip())
            if colon and agent and name.strip() not in VALUED:
                addressed = agent[1] in (product, "*")
                directive = rest.strip()
            if addressed and directive in OPT_OUT:
                return True
    return False


def tdm_reserved(header_value: str | None) -> bool:
    """Whether a ``tdm-reservation`` header reserves text and data mining rights."""
    return "1" in [value.strip() for value in (header_value or "").split(",")]


@dataclass(frozen=True)
class SiteFile:
    """What fetching a file of a site gave."""

    status: int | None
    """Final HTTP status, None when nothing answered."""
    body: bytes = b""
    failure: failures.FailedError | None = None
    """Why nothing answered: the pictures of the origin share it."""


@dataclass(frozen=True)
class Rules:
    """What one origin says."""

    refusal: Callable[[str], failures.FailedError | None]
    """Why a URL may not be fetched, by robots.txt; None where it may."""
    reservations: tuple[tuple[re.Pattern[str], bool], ...] = ()
    """Patterns of paths, and whether what they match is reserved; the first match counts."""
    delay_s: float = 0.0
    """Pause between requests that robots.txt asks for."""

    def of_url(self, url: str) -> failures.FailedError | None:
        """Why a URL may not be fetched, or None."""
        refused = self.refusal(url)
        if refused is None and self._is_reserved(url):
            refused = failures.FailedError(failures.OPTED_OUT_SITE)
        if refused is not None:
            refused.of_site = True
        return refused

    def _is_reserved(self, url: str) -> bool:
        path = _path(url)
        return next((held for found, held in self.reservations if found.match(path)), False)


class SiteRules:
    """Rules of each origin, fetched once."""

    def __init__(
        self,
        product: str,
        fetch: Callable[[str], Awaitable[SiteFile]],
        slow_down: Callable[[str, float], None],
    ) -> None:
        """Obey what addresses ``product``.

        Args:
            product: Our product token in lower case.
            fetch: Gets a file of a site.
            slow_down: Told the pause (s) that a URL's robots.txt asks for.
        """
        self._product, self._fetch, self._slow_down = product, fetch, slow_down
        self._rules: dict[str, asyncio.Future[Rules]] = {}

    async def refusal(self, url: str) -> failures.FailedError | None:
        """Why a URL may not be fetched, or None."""
        origin = _origin(url)
        if origin not in self._rules:
            self._rules[origin] = asyncio.ensure_future(self._load(origin))
        # Shielded: one picture's cancellation must not take the rules from all others.
        rules = await asyncio.shield(self._rules[origin])
        return rules.of_url(url)

    async def _load(self, origin: str) -> Rules:
        robots = robots_rules(await self._fetch(origin + ROBOTS_PATH), self._product)
        tdmrep = origin + TDMREP_PATH
        if robots.delay_s:
            self._slow_down(origin, robots.delay_s)
        if robots.refusal(tdmrep) is not None:
            return robots
        found = await self._fetch(tdmrep)
        if found.failure is not None and found.failure.transient:
            return Rules(_unreachable("tdmrep_unreachable", found.failure))
        reservations = reservations_of(found.body) if found.status == 200 else ()
        return Rules(robots.refusal, reservations, robots.delay_s)


def robots_rules(answer: SiteFile, product: str) -> Rules:
    """What a robots.txt means; RFC 9309 says what a missing or failing one means."""
    if answer.status is None:
        return Rules(lambda _url: answer.failure)
    if answer.status >= 500 or answer.status == 429:  # 2.3.1.4: assume complete disallow
        return Rules(_unreachable("robots_unreachable", answer.failure))
    if answer.status >= 400:  # 2.3.1.3: no rules
        return Rules(lambda _url: None)
    text = answer.body[:MAX_FILE_BYTES].decode("utf-8-sig", "replace")
    rules = Protego.parse(_as_rfc_9309(text, product))

    def refusal(url: str) -> failures.FailedError | None:
        allowed = rules.can_fetch(url, OURSELVES)
        return None if allowed else failures.FailedError("robots_disallowed")

    return Rules(refusal, delay_s=float(rules.crawl_delay(OURSELVES) or 0.0))


def _unreachable(
    reason: str, cause: failures.FailedError | None
) -> Callable[[str], failures.FailedError]:
    """Nothing may be fetched while nobody can say what may."""
    retry_at_s = None if cause is None else cause.retry_at_s
    return lambda _url: failures.FailedError(reason, transient=True, retry_at_s=retry_at_s)


def _as_rfc_9309(text: str, product: str) -> str:
    """A robots.txt in which Protego finds the groups that RFC 9309 means.

    Protego matches agents by their beginnings and lets Crawl-delay end a list of agents. Here a
    group is ours where its product token is ours as a whole (2.2.1), whatever version follows, and
    only Allow and Disallow end its list of agents (2.2.4).
    """
    lines: list[str] = []
    head: list[str] = []  # of the group that is open: agents, then what does not end their list
    delays: list[str] = []
    in_rules = True
    for found in filter(None, map(ROBOTS_LINE.match, text.splitlines())):
        name, value = found[1].lower(), found[2].strip()
        if name == "user-agent":
            if in_rules:
                head, delays, in_rules = [], [], False
            head.append(f"user-agent: {_agent(value, product)}")
        elif name == "crawl-delay" and not in_rules:
            delays.append(f"crawl-delay: {value}")
        else:
            lines += [] if in_rules else [*head, *delays]
            in_rules = True
            lines.append(f"{name}: {value}")
    return "\n".join(lines if in_rules else [*lines, *head, *delays])


def _agent(value: str, product: str) -> str:
    token = AGENT.match(value.lower())
    if token is None:
        return NOBODY
    return {"*": "*", product: OURSELVES}.get(token[1], NOBODY)


def reservations_of(body: bytes) -> tuple[tuple[re.Pattern[str], bool], ...]:
    """The rules of a tdmrep.json in their order; empty where it is none.

    ``[{"location": "/pictures/", "tdm-reservation": 1}]``: a location is a pattern as in
    robots.txt, ``*`` any characters, ``$`` at its end the end of the path.
    """
    try:
        listed = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    rules, num_stars = [], 0
    for rule in listed if isinstance(listed, list) else []:
        location = rule.get("location") if isinstance(rule, dict) else None
        if not isinstance(location, str):
            continue
        num_stars += location.count("*")
        if len(rules) == MAX_RESERVATIONS or num_stars > MAX_STARS:
            rules.append((_pattern("/"), True))
            break
        reserved = str(rule.get("tdm-reservation")).strip() == "1"
        rules.append((_pattern(location), reserved))
    return tuple(rules)


def _pattern(location: str) -> re.Pattern[str]:
    whole = location.endswith("$")
    parts = [re.escape(unquote(part)) for part in location.removesuffix("$").split("*")]
    # Atomic groups: each star takes the nearest match and never another, which is enough for a
    # prefix and keeps a hostile pattern from taking time without end.
    middle = "".join(f"(?>.*?{part})" for part in parts[1:-1])
    if len(parts) == 1:
        return re.compile(parts[0] + (r"\Z" if whole else ""), re.DOTALL)
    last = rf".*{parts[-1]}\Z" if whole else rf"(?>.*?{parts[-1]})"
    return re.compile(f"{parts[0]}{middle}{last}", re.DOTALL)


def _origin(url: str) -> str:
    """Scheme, host and port in one spelling."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    where = f"[{host}]" if ":" in host else host
    default = parts.port in (None, DEFAULT_PORTS.get(parts.scheme))
    return f"{parts.scheme}://{where}" + ("" if default else f":{parts.port}")


def _path(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.path or "/") + (f"?{parts.query}" if parts.query else "")
