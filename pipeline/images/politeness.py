"""How often we may ask a host: few requests at once, a pause between them, a budget for all.

What the host itself says counts more: a Crawl-delay of its robots.txt, a Retry-After.

A host belongs to one partition of the crawl, but redirects lead to it from all others, which know
nothing of each other. So its partition has one half of its budget, and the others share the rest.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pipeline.candidates import urls
from pipeline.images.config import CrawlConfig


class HostPausedError(Exception):
    """The host asked for a longer pause than anybody here will wait."""


class BudgetSpentError(Exception):
    """The host had all the requests, or all the time, that one pass may take of it."""


@dataclass
class _Host:
    slots: asyncio.Semaphore
    turn: asyncio.Lock
    """Held by the one that waits for the next start."""
    budget: int
    delay_s: float
    until_s: float
    """Loop time of its deadline."""
    num_requests: int = 0
    next_start_s: float = 0.0


class HostBudget:
    """Per host: requests at once, the pause between their starts, and how many there may be."""

    def __init__(
        self,
        config: CrawlConfig,
        sites: Collection[str] | None = None,
        num_partitions: int = 1,
    ) -> None:
        """Read the limits; times count from a host's first request.

        Args:
            config: The limits.
            sites: Registered domains that belong to this partition; None where all do.
            num_partitions: Of the whole crawl.
        """
        self._config, self._num_partitions = config, num_partitions
        self._sites = None if num_partitions == 1 else sites
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, host: str, places: asyncio.Semaphore) -> AsyncIterator[None]:
        """Wait for a turn at ``host`` and hold it while the block runs.

        Args:
            host: Whose turn.
            places: For all hosts' transfers: one is taken, for the caller to release. It is taken
                once the host is due and before the next pause begins, so that starts at one host
                keep their distance and hosts that wait take no place from others.

        Raises:
            HostPausedError: The next turn is further away than the deadline of a picture.
            BudgetSpentError: There is none.
        """
        state = self._state(host)
        async with state.slots:
            async with state.turn:
                await self._wait(state)
                await places.acquire()
                clock = asyncio.get_running_loop().time
                state.next_start_s = max(state.next_start_s, clock() + state.delay_s)
                state.num_requests += 1
            yield

    def pause(self, host: str, seconds: float) -> None:
        """Let no request to ``host`` start for ``seconds``: it asked for that."""
        state = self._state(host)
        until_s = asyncio.get_running_loop().time() + seconds
        state.next_start_s = max(state.next_start_s, until_s)

    def pause_left_s(self, host: str) -> float:
        """Seconds until the next request to ``host`` may start."""
        return max(self._state(host).next_start_s - asyncio.get_running_loop().time(), 0.0)

    def slow_down(self, host: str, delay_s: float) -> None:
        """Keep at least ``delay_s`` between requests to ``host``: its robots.txt says so.

        The request that has just fetched it counts as the last one.
        """
        state = self._state(host)
        state.delay_s = max(state.delay_s, delay_s)
        self.pause(host, delay_s)

    def _state(self, host: str) -> _Host:
        state = self._hosts.get(host)
        if state is None:
            config, now_s = self._config, asyncio.get_running_loop().time()
            ours = self._sites is None or urls.domain_of_host(host) in self._sites
            owned = owner_budget(config, self._num_partitions)
            others = (config.per_host_budget - owned) // self._num_partitions
            state = self._hosts[host] = _Host(
                slots=asyncio.Semaphore(config.per_host_concurrency if ours else 1),
                turn=asyncio.Lock(),
                budget=owned if ours else others,
                delay_s=config.per_host_delay_s,
                until_s=now_s + config.host_deadline_s,
            )
        return state

    async def _wait(self, state: _Host) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            if state.num_requests >= capacity(self._config, state.budget, state.delay_s):
                raise BudgetSpentError
            left_s = state.next_start_s - clock()
            if left_s > max(self._config.deadline_s, state.delay_s):
                raise HostPausedError
            if max(state.next_start_s, clock()) >= state.until_s:
                raise BudgetSpentError
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)


def owner_budget(config: CrawlConfig, num_partitions: int) -> int:
    """Requests to a host, in one pass, of the partition to which it belongs."""
    return config.per_host_budget - (config.per_host_budget // 2 if num_partitions > 1 else 0)


def capacity(config: CrawlConfig, budget: int, delay_s: float) -> int:
    """Requests of ``budget`` that a host answers in one pass, at ``delay_s`` between them."""
    if delay_s > config.max_crawl_delay_s:
        return 0
    if delay_s <= 0:
        return budget
    return min(budget, max(1, int(config.host_deadline_s / delay_s)))
