"""Fetch one picture: politely, within limits, with exactly one outcome.

Every hop of every attempt passes the network guard, robots.txt and the host's budget; headers and
first bytes decide whether a body is read to its end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from pipeline.draws import uniform
from pipeline.images.config import CrawlConfig
from pipeline.images.decode import sniff
from pipeline.images.network_guard import (
    BadUrlError,
    GuardedResolver,
    NetworkGuard,
    RefusedAddressError,
)
from pipeline.images.politeness import (
    MAX_ROBOTS_BYTES,
    HostBudget,
    Robots,
    RobotsAnswer,
    opted_out,
    tdm_reserved,
)

REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream"})
DNS_CACHE_S = 300
EAI_AGAIN = -3
"""``socket.EAI_AGAIN``: the name server could not answer now; other codes are final."""


@dataclass(frozen=True)
class Target:
    """One picture to fetch."""

    key: str
    """Its url_id."""
    url: str


@dataclass(frozen=True)
class Fetched:
    """How one fetch ended: a body, or a drop reason."""

    key: str
    url: str
    body: bytes | None
    drop_reason: str | None
    status: int | None
    """Last HTTP status, None when nothing answered."""
    final_url: str
    attempts: int
    etag: str | None
    started_s: float
    """Unix time of the first request."""
    duration_s: float
    """Time spent in requests; waiting for the host's turn left out."""

    def log_row(self) -> dict[str, Any]:
        """The row of the crawl log: facts of this fetch, which no content hash covers."""
        row = {name: value for name, value in vars(self).items() if name != "body"}
        return row | {"num_bytes": None if self.body is None else len(self.body)}


class _FailedError(Exception):
    """One attempt failed."""

    def __init__(
        self, reason: str, transient: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.transient, self.retry_after_s = reason, transient, retry_after_s


@dataclass
class _Visit:
    """The state of one picture's fetch over its attempts."""

    target: Target
    left_s: float
    """Time left of the deadline."""
    final_url: str = ""
    status: int | None = None
    attempts: int = 0
    etag: str | None = None
    started_s: float = field(default_factory=time.time)
    holds_slot: bool = False
    """Whether a body is in memory on this visit's account."""


def host_of(url: str) -> str:
    """The host whose budget a URL's requests use; empty where the URL is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@asynccontextmanager
async def open_crawler(config: CrawlConfig) -> AsyncIterator["Crawler"]:
    """A crawler with its connections, closed when the block ends."""
    guard = NetworkGuard(config)
    connector = aiohttp.TCPConnector(
        limit=0, resolver=GuardedResolver(guard), ttl_dns_cache=DNS_CACHE_S
    )
    headers = {
        "User-Agent": config.user_agent,
        "Accept": "image/jpeg,image/png,image/webp,image/gif;q=0.8,*/*;q=0.1",
        "Accept-Encoding": "identity",
    }
    async with aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # deadlines are ours: over all requests
        trust_env=False,
    ) as session:
        yield Crawler(config, guard, session)


class Crawler:
    """Fetches pictures over one session; knows each host's rules and budget."""

    def __init__(
        self, config: CrawlConfig, guard: NetworkGuard, session: aiohttp.ClientSession
    ) -> None:
        """Fetch with ``session``, whose resolver is guarded by ``guard``."""
        self._config, self._guard, self._session = config, guard, session
        self._budget = HostBudget(config.per_host_concurrency, config.per_host_delay_s)
        self._robots = Robots(config.product, self._fetch_robots)
        self._slots = asyncio.Semaphore(config.execution.max_transfers)

    @asynccontextmanager
    async def fetched(self, target: Target) -> AsyncIterator[Fetched]:
        """The outcome of a target; its body counts as held until the block ends."""
        visit = _Visit(target, self._config.deadline_s, target.url)
        try:
            yield await self._fetch(visit)
        finally:
            if visit.holds_slot:
                self._slots.release()

    async def _fetch(self, visit: _Visit) -> Fetched:
        body, reason = None, None
        while True:
            visit.attempts += 1
            try:
                body, reason = await self._attempt(visit), None
            except _FailedError as failure:
                reason = failure.reason
                if await self._will_retry(visit, failure):
                    continue
            return Fetched(
                key=visit.target.key,
                url=visit.target.url,
                body=body,
                drop_reason=reason,
                status=visit.status,
                final_url=visit.final_url,
                attempts=visit.attempts,
                etag=visit.etag,
                started_s=visit.started_s,
                duration_s=self._config.deadline_s - visit.left_s,
            )

    async def _will_retry(self, visit: _Visit, failure: _FailedError) -> bool:
        """Wait before the next attempt; False when there is none."""
        config, asked_s = self._config, failure.retry_after_s or 0.0
        if not failure.transient or visit.attempts > config.num_retries:
            return False
        if asked_s > config.deadline_s or visit.left_s <= 0:
            return False
        if asked_s:
            self._budget.pause(host_of(visit.final_url), asked_s)
        pause_s = config.backoff_s * 2 ** (visit.attempts - 1)
        jitter = 0.5 + uniform(visit.target.key, visit.attempts)
        await asyncio.sleep(max(asked_s, pause_s * jitter))
        return True

    async def _attempt(self, visit: _Visit) -> bytes:
        """Follow redirects to a body; every hop is checked by guard and robots.txt."""
        url = visit.target.url
        for _ in range(self._config.max_redirects + 1):
            visit.final_url = url
            self._check(url)
            refusal = await self._robots.refusal(url)
            if refusal is not None:
                raise _FailedError(refusal)
            answer = await self._request(url, visit, self._read_picture)
            if isinstance(answer, bytes):
                return answer
            url = answer.location
        raise _FailedError("too_many_redirects")

    def _check(self, url: str) -> None:
        try:
            self._guard.check_url(url)
        except BadUrlError as error:
            raise _FailedError("invalid_url") from error
        except RefusedAddressError as error:
            raise _FailedError("refused_address") from error

    async def _request(self, url: str, visit: _Visit, read: "_Read") -> "bytes | _Redirect":
        """One GET within the host's budget, a free slot and what is left of the deadline."""
        async with self._budget.turn(host_of(url)):
            await self._slots.acquire()
            keep_slot = False
            started = time.monotonic()
            try:
                async with asyncio.timeout(max(visit.left_s, 0)):
                    answer = await self._get(url, visit, read)
                keep_slot = visit.holds_slot = isinstance(answer, bytes)
                return answer
            except TimeoutError as error:
                raise _FailedError("timeout") from error
            finally:
                visit.left_s -= time.monotonic() - started
                if not keep_slot:
                    self._slots.release()

    async def _get(self, url: str, visit: _Visit, read: "_Read") -> "bytes | _Redirect":
        try:
            async with self._session.get(_as_sent(url), allow_redirects=False) as response:
                visit.status = response.status
                location = response.headers.get("Location")
                if response.status in REDIRECTS and location is not None:
                    return _Redirect(_joined(url, location))
                return await read(response, visit)
        except (aiohttp.ClientError, OSError, RefusedAddressError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise _as_failure(error) from error

    async def _read_picture(self, response: aiohttp.ClientResponse, visit: _Visit) -> bytes:
        """The body, if headers and first bytes say that it is a picture we may keep."""
        headers = response.headers
        if opted_out(headers.getall("X-Robots-Tag", []), self._config.product) or tdm_reserved(
            headers.get("tdm-reservation")
        ):
            raise _FailedError("opted_out_image")
        if response.status != 200:
            transient = response.status in TRANSIENT_STATUS
            raise _FailedError("http_error", transient, _retry_after_s(headers.get("Retry-After")))
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind not in UNTYPED:
            raise _FailedError("wrong_content_type")
        visit.etag = headers.get("ETag")
        body = await _read(response, self._config.max_bytes)
        if body is None:
            raise _FailedError("too_many_bytes")
        if sniff(body) is None:
            raise _FailedError("wrong_content_type")
        return body

    async def _fetch_robots(self, url: str) -> RobotsAnswer:
        """Fetch a robots.txt; where none of its redirects ends, there are no rules (RFC 9309)."""
        visit = _Visit(Target(url, url), self._config.deadline_s, url)
        while True:
            visit.attempts += 1
            try:
                return await self._robots_attempt(visit)
            except _FailedError as failure:
                if not await self._will_retry(visit, failure):
                    return RobotsAnswer(None, drop_reason=failure.reason)
            finally:
                if visit.holds_slot:
                    visit.holds_slot = False
                    self._slots.release()

    async def _robots_attempt(self, visit: _Visit) -> RobotsAnswer:
        url = visit.target.url
        for _ in range(self._config.max_redirects + 1):
            self._check(url)
            answer = await self._request(url, visit, _read_robots)
            if isinstance(answer, bytes):
                assert visit.status is not None
                return RobotsAnswer(visit.status, answer)
            url = answer.location
        return RobotsAnswer(404)


@dataclass(frozen=True)
class _Redirect:
    location: str


_Read = Callable[[aiohttp.ClientResponse, _Visit], Awaitable[bytes]]
"""Reads an answer that is no redirect."""


def _joined(url: str, location: str) -> str:
    location.encode()  # a ValueError for bytes that are no UTF-8: aiohttp keeps them as surrogates
    return urljoin(url, location.strip()).partition("#")[0]


def _as_sent(url: str) -> URL:
    """Sent as written where that is legal; other spellings are quoted first."""
    legal = url.isascii() and not any(character <= " " for character in url)
    return URL(url, encoded=legal)


async def _read_robots(response: aiohttp.ClientResponse, visit: _Visit) -> bytes:
    parts, left = [], MAX_ROBOTS_BYTES
    if response.status == 200:
        async for part in response.content.iter_any():
            parts.append(part[:left])
            left -= len(parts[-1])
            if left == 0:
                break
    return b"".join(parts)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """The body, or None as soon as it is longer than ``max_bytes``, whatever the headers say."""
    if (response.content_length or 0) > max_bytes:
        return None
    parts, num_bytes = [], 0
    async for part in response.content.iter_any():
        num_bytes += len(part)
        if num_bytes > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)


def _as_failure(error: Exception) -> _FailedError:
    if isinstance(error, RefusedAddressError):
        return _FailedError("refused_address")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _FailedError("dns_error", transient=error.os_error.errno == EAI_AGAIN)
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return _FailedError("invalid_url")
    final = isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientResponseError)
    return _FailedError("connection_error", transient=not final)


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, given as a number or as a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None
