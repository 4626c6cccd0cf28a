"""Fetch one picture: politely, within limits, with exactly one outcome.

Every hop of every attempt passes the network guard, the site's rules and the host's budget; headers
and first bytes decide whether a body is read to its end. ``failures.py`` lists how it may end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from pipeline.candidates import urls
from pipeline.draws import uniform
from pipeline.images import failures, transfer
from pipeline.images.config import CrawlConfig
from pipeline.images.failures import FailedError
from pipeline.images.network_guard import (
    BadUrlError,
    GuardedResolver,
    NetworkGuard,
    RefusedAddressError,
)
from pipeline.images.politeness import BudgetSpentError, HostBudget, HostPausedError
from pipeline.images.resolver import CachingResolver
from pipeline.images.site_rules import SiteFile, SiteRules

ACCEPT = "image/jpeg,image/png,image/webp,image/gif;q=0.8,*/*;q=0.1"


@dataclass(frozen=True)
class Target:
    """One picture to fetch, and what is known of it."""

    key: str
    """Its url_id."""
    url: str
    etag: str | None = None
    """Of the copy that an earlier crawl holds."""
    held_sha256: str | None = None
    """Of that copy's bytes, hex."""
    given_sha256: str | None = None
    """Of the bytes that the source of the candidates saw, hex."""
    not_before_s: float = 0.0
    """Unix time before which the host does not want to be asked again."""


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
    transient: bool = False
    """Whether the drop reason may pass."""
    retry_at_s: float | None = None
    """Unix time before which the host does not want to be asked again."""
    sha256: str | None = None
    """Of the bytes as received, hex; of the bytes that are held where they are unchanged."""

    def log_row(self) -> dict[str, Any]:
        """The row of the crawl log: facts of this fetch, which no content hash covers."""
        row = {name: value for name, value in vars(self).items() if name != "body"}
        return row | {"num_bytes": None if self.body is None else len(self.body)}


def not_asked(target: Target, drop_reason: str) -> Fetched:
    """The outcome of a picture that is dropped without a request."""
    return Fetched(
        key=target.key,
        url=target.url,
        body=None,
        drop_reason=drop_reason,
        status=None,
        final_url=target.url,
        attempts=0,
        etag=target.etag,
        started_s=time.time(),
        duration_s=0.0,
        sha256=target.held_sha256,
    )


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
    holds_place: bool = False
    """Whether a body is in memory on this visit's account."""
    holds_large_place: bool = False
    """Whether that body is a large one."""
    is_picture: bool = True
    """False for the files in which a site states its rules."""


def host_of(url: str) -> str:
    """The host whose budget a URL's requests use; empty where the URL is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


@asynccontextmanager
async def open_crawler(
    config: CrawlConfig, sites: Collection[str] | None = None, num_partitions: int = 1
) -> AsyncIterator["Crawler"]:
    """A crawler with its connections, closed when the block ends; arguments as ``HostBudget``."""
    guard = NetworkGuard(config)
    resolver = GuardedResolver(guard, CachingResolver(config.execution.nameservers))
    connector = aiohttp.TCPConnector(
        limit=0, resolver=resolver, use_dns_cache=False, socket_factory=guard.open_socket
    )
    headers = {
        "User-Agent": config.user_agent,
        "Accept": ACCEPT,
        "Accept-Encoding": "identity",
    }
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # deadlines are ours: over all requests
            trust_env=False,
        ) as session:
            yield Crawler(config, guard, session, HostBudget(config, sites, num_partitions))
    finally:
        await resolver.close()


class Crawler:
    """Fetches pictures over one session; knows each host's rules and budget."""

    def __init__(
        self,
        config: CrawlConfig,
        guard: NetworkGuard,
        session: aiohttp.ClientSession,
        budget: HostBudget,
    ) -> None:
        """Fetch with ``session``, whose resolver and sockets are guarded by ``guard``."""
        self._config, self._guard, self._session = config, guard, session
        self._budget = budget
        self._rules = SiteRules(config.product, self._fetch_site_file, self._slow_down)
        self._places = asyncio.Semaphore(config.execution.max_transfers)
        self._bodies = transfer.BodyReader(config)

    @asynccontextmanager
    async def fetched(self, target: Target) -> AsyncIterator[Fetched]:
        """The outcome of a target; its body counts as held until the block ends."""
        visit = _Visit(target, self._config.deadline_s, target.url)
        try:
            yield await self._fetch(visit)
        finally:
            self._let_go(visit)

    async def _fetch(self, visit: _Visit) -> Fetched:
        self._keep_pause(visit.target)
        while True:
            visit.attempts += 1
            try:
                return self._outcome(visit, await self._attempt(visit), None)
            except FailedError as failure:
                if not await self._will_retry(visit, failure):
                    return self._outcome(visit, None, failure)

    def _outcome(self, visit: _Visit, body: bytes | None, failure: FailedError | None) -> Fetched:
        unchanged = failure is not None and failure.reason == failures.UNCHANGED
        return Fetched(
            key=visit.target.key,
            url=visit.target.url,
            body=body,
            drop_reason=None if failure is None else failure.reason,
            status=visit.status,
            final_url=visit.final_url,
            attempts=visit.attempts,
            etag=visit.etag,
            started_s=visit.started_s,
            duration_s=self._config.deadline_s - visit.left_s,
            transient=failure is not None and failure.transient,
            retry_at_s=None if failure is None else failure.retry_at_s,
            sha256=visit.target.held_sha256 if unchanged else None,
        )

    def _keep_pause(self, target: Target) -> None:
        """Let a pause that the host asked for in an earlier pass go on."""
        left_s = target.not_before_s - time.time()
        if left_s > 0:
            self._budget.pause(host_of(target.url), left_s)

    async def _will_retry(self, visit: _Visit, failure: FailedError) -> bool:
        """Wait before the next attempt; False when there is none."""
        asked_s = max((failure.retry_at_s or 0.0) - time.time(), 0.0)
        if asked_s:  # for all pictures of the host, whether this one is tried again or not
            self._budget.pause(host_of(visit.final_url), asked_s)
        if not failure.transient or failure.of_site or visit.attempts > self._config.num_retries:
            return False
        if asked_s > self._config.deadline_s or visit.left_s <= 0:
            return False
        pause_s = self._config.backoff_s * 2 ** (visit.attempts - 1)
        jitter = 0.5 + uniform(visit.target.key, visit.attempts)
        await asyncio.sleep(max(asked_s, pause_s * jitter))
        return True

    async def _attempt(self, visit: _Visit) -> bytes:
        """Follow redirects to a body; every hop is checked by guard and the site's rules."""
        url = visit.target.url
        for _ in range(self._config.max_redirects + 1):
            visit.final_url = url
            self._check(url)
            refusal = await self._rules.refusal(url)
            if refusal is not None:
                raise refusal.with_traceback(None)  # it is shared: its traceback would grow
            answer = await self._request(url, visit, self._read_picture)
            if isinstance(answer, bytes):
                return answer
            url = answer.location
        raise FailedError("too_many_redirects")

    def _check(self, url: str) -> None:
        try:
            self._guard.check_url(url)
        except BadUrlError as error:
            raise FailedError("invalid_url") from error
        except RefusedAddressError as error:
            raise FailedError("refused_address") from error

    async def _request(self, url: str, visit: _Visit, read: "_Read") -> "bytes | _Redirect":
        """One GET within the host's budget, a free place and what is left of the deadline."""
        try:
            async with self._budget.turn(host_of(url), self._places):
                visit.holds_place = True
                return await self._timed(url, visit, read)
        except HostPausedError as error:
            retry_at_s = time.time() + self._budget.pause_left_s(host_of(url))
            raise FailedError(failures.HOST_BUSY, transient=True, retry_at_s=retry_at_s) from error
        except BudgetSpentError as error:
            raise FailedError(failures.OVER_HOST_BUDGET) from error

    async def _timed(self, url: str, visit: _Visit, read: "_Read") -> "bytes | _Redirect":
        """The place in memory stays taken where the answer is a body."""
        started, answer = time.monotonic(), None
        try:
            async with asyncio.timeout(max(visit.left_s, 0)):
                answer = await self._get(url, visit, read)
            return answer
        except TimeoutError as error:
            raise FailedError("timeout", transient=True) from error
        finally:
            visit.left_s -= time.monotonic() - started
            if not isinstance(answer, bytes):
                self._let_go(visit)

    def _let_go(self, visit: _Visit) -> None:
        if visit.holds_large_place:
            self._bodies.release()
        if visit.holds_place:
            self._places.release()
        visit.holds_place = visit.holds_large_place = False

    async def _get(self, url: str, visit: _Visit, read: "_Read") -> "bytes | _Redirect":
        known = {} if visit.target.etag is None else {"If-None-Match": visit.target.etag}
        try:
            async with self._session.get(
                _as_sent(url), allow_redirects=False, headers=known
            ) as response:
                visit.status = response.status
                if visit.is_picture:
                    transfer.check_opt_out(response, self._config.product)
                location = response.headers.get("Location")
                if response.status in failures.REDIRECTS and location is not None:
                    return _Redirect(_joined(url, location))
                return await read(response, visit)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise failures.of_error(error) from error

    async def _read_picture(self, response: aiohttp.ClientResponse, visit: _Visit) -> bytes:
        """The body, if headers and first bytes say that it is a picture we may keep."""
        visit.etag = transfer.etag_of(response)
        if response.status == 304 and visit.target.etag is not None:
            visit.etag = visit.etag or visit.target.etag
            raise FailedError(failures.UNCHANGED)
        if response.status != 200:
            raise failures.of_status(response.status, response.headers.get("Retry-After"))
        body, visit.holds_large_place = await self._bodies.picture(response)
        return body

    def _slow_down(self, url: str, delay_s: float) -> None:
        self._budget.slow_down(host_of(url), delay_s)

    async def _fetch_site_file(self, url: str) -> SiteFile:
        """Fetch a robots.txt or the like; where none of its redirects ends, there is none."""
        visit = _Visit(Target(url, url), self._config.deadline_s, url, is_picture=False)
        while True:
            visit.attempts += 1
            try:
                return await self._site_file_attempt(visit)
            except FailedError as failure:
                if not await self._will_retry(visit, failure):
                    return SiteFile(None, failure=failure)
            finally:
                self._let_go(visit)

    async def _site_file_attempt(self, visit: _Visit) -> SiteFile:
        url = visit.target.url
        retry_after: list[str | None] = []

        async def read(response: aiohttp.ClientResponse, _: _Visit) -> bytes:
            retry_after.append(response.headers.get("Retry-After"))
            return await transfer.read_site_file(response)

        for _ in range(self._config.max_redirects + 1):
            self._check(url)
            answer = await self._request(url, visit, read)
            if isinstance(answer, bytes):
                assert visit.status is not None
                return self._site_file(url, visit.status, answer, retry_after[-1])
            url = answer.location
        return SiteFile(404)

    def _site_file(self, url: str, status: int, body: bytes, retry_after: str | None) -> SiteFile:
        failure = None if status == 200 else failures.of_status(status, retry_after)
        if failure is not None and failure.retry_at_s is not None:
            self._budget.pause(host_of(url), failure.retry_at_s - time.time())
        return SiteFile(status, body, failure)


@dataclass(frozen=True)
class _Redirect:
    location: str


_Read = Callable[[aiohttp.ClientResponse, _Visit], Awaitable[bytes]]
"""Reads an answer that is no redirect."""


def _joined(url: str, location: str) -> str:
    location.encode()  # a ValueError for bytes that are no UTF-8: aiohttp keeps them as surrogates
    joined = urljoin(url, location.strip()).partition("#")[0]
    # One spelling per host, or its budget and rules would count for each of them anew.
    return joined if joined.isascii() else urls.canonical(joined) or joined


def _as_sent(url: str) -> URL:
    """Sent as written where that is legal; other spellings are quoted first."""
    legal = url.isascii() and not any(character <= " " for character in url)
    return URL(url, encoded=legal)
