"""What a site says about robots, and how often we may ask it.

robots.txt is read once per origin (RFC 9309) and kept; a picture's own headers may opt it out; a
host is asked by few connections at once and with a pause between requests.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from protego import Protego

MAX_ROBOTS_BYTES = 512_000
"""RFC 9309, 2.5: at least 500 KiB are read; what follows is ignored."""

OPT_OUT = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex", "none"})
"""Directives of X-Robots-Tag that keep a picture out of a data set."""
VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives that carry a value after a colon, so that their colon names no agent."""


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
            agent, colon, rest = directive.partition(":")
            if colon and agent.strip() not in VALUED:
                addressed = agent.strip() in (product, "*")
                directive = rest.strip()
            if addressed and directive in OPT_OUT:
                return True
    return False


def tdm_reserved(header_value: str | None) -> bool:
    """Whether a ``tdm-reservation`` header reserves text and data mining rights."""
    return header_value is not None and re.sub(r"\s", "", header_value) == "1"


@dataclass(frozen=True)
class RobotsAnswer:
    """What fetching a robots.txt gave."""

    status: int | None
    """Final HTTP status, None when nothing answered."""
    body: bytes = b""
    drop_reason: str | None = None
    """Why nothing answered, such as ``dns_error``: the pictures of the origin share it."""


class Robots:
    """Rules of each origin, fetched once."""

    def __init__(self, product: str, fetch: Callable[[str], Awaitable[RobotsAnswer]]) -> None:
        """Use ``fetch`` to get a robots.txt and obey the rules that address ``product``."""
        self._product, self._fetch = product, fetch
        self._rules: dict[str, asyncio.Future[Callable[[str], str | None]]] = {}

    async def refusal(self, url: str) -> str | None:
        """The drop reason of a URL that robots may not fetch, or None."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._rules:
            self._rules[origin] = asyncio.ensure_future(self._load(origin))
        # Shielded: one picture's cancellation must not take the rules from all others.
        judge = await asyncio.shield(self._rules[origin])
        return judge(url)

    async def _load(self, origin: str) -> Callable[[str], str | None]:
        answer = await self._fetch(f"{origin}/robots.txt")
        if answer.status is None:
            return lambda _url: answer.drop_reason
        if 400 <= answer.status < 500:  # RFC 9309, 2.3.1.3: no rules
            return lambda _url: None
        if answer.status >= 500:  # RFC 9309, 2.3.1.4: assume complete disallow
            return lambda _url: "robots_disallowed"
        text = answer.body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace")
        rules, product = Protego.parse(text), self._product
        return lambda url: None if rules.can_fetch(url, product) else "robots_disallowed"


@dataclass
class _Host:
    slots: asyncio.Semaphore
    turn: asyncio.Lock
    """Held by the one that waits for the next start."""
    next_start_s: float = 0.0


class HostBudget:
    """Per host: a few requests at once, and a pause between their starts."""

    def __init__(self, concurrency: int, delay_s: float) -> None:
        """Allow ``concurrency`` requests at once, their starts ``delay_s`` apart."""
        self._concurrency, self._delay_s = concurrency, delay_s
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Wait for a turn at ``host`` and hold it while the block runs."""
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _Host(asyncio.Semaphore(self._concurrency), asyncio.Lock())
        async with state.slots:
            async with state.turn:
                clock = asyncio.get_running_loop().time
                while (left_s := state.next_start_s - clock()) > 0:
                    await asyncio.sleep(left_s)
                state.next_start_s = clock() + self._delay_s
            yield

    def pause(self, host: str, seconds: float) -> None:
        """Let no request to ``host`` start for ``seconds``: it asked for that."""
        state = self._hosts.get(host)
        if state is not None:
            until = asyncio.get_running_loop().time() + seconds
            state.next_start_s = max(state.next_start_s, until)
