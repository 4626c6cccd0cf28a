"""Fetch the pictures of one partition of hosts and hand each outcome on.

Per host a few coroutines take its URLs in turn; every body is hashed, handed to ``use`` (decode,
filter, store) in a thread and dropped, so that memory stays bounded. Files of the run's own folder
are read one after the other.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import uvloop

from pipeline.candidates import urls
from pipeline.images import failures
from pipeline.images.config import CrawlConfig
from pipeline.images.fetch import Fetched, Target, host_of, open_crawler
from pipeline.images.local_files import is_local, read_local

Outcome = TypeVar("Outcome")


def crawl(
    targets: Sequence[Target],
    config: CrawlConfig,
    use: Callable[[Fetched], Outcome],
    num_partitions: int = 1,
) -> list[Outcome]:
    """Fetch every target once and hand each outcome to ``use``.

    Args:
        targets: Pictures with distinct keys, usually all of one partition of hosts.
        config: Who we are, where we may go, how much we take.
        use: Called once per target, in one helper thread; what it returns is collected.
        num_partitions: Of the whole crawl, of which the targets are one.

    Returns:
        What ``use`` returned, in the order of ``targets``.
    """
    root, max_bytes = config.execution.local_root, config.max_bytes
    local = [target for target in targets if is_local(target)]
    results = {
        target.key: use(hashed(read_local(target, root, max_bytes), target, config))
        for target in local
    }
    remote = [target for target in targets if target.key not in results]
    if remote:
        results |= uvloop.run(_crawl(remote, config, use, num_partitions))
    return [results[target.key] for target in targets]


def hashed(fetched: Fetched, target: Target, config: CrawlConfig) -> Fetched:
    """The outcome with its bytes' sha256; without the bytes where they are known or wrong."""
    if fetched.body is None:
        return fetched
    sha256, reason = hashlib.sha256(fetched.body).hexdigest(), None
    if sha256 == target.held_sha256:
        reason = failures.UNCHANGED
    elif target.given_sha256 is not None and config.refuse_sha256_mismatch:
        reason = None if sha256 == target.given_sha256 else failures.SHA256_MISMATCH
    body = fetched.body if reason is None else None
    return replace(fetched, sha256=sha256, drop_reason=reason, body=body)


async def _crawl(
    targets: Sequence[Target],
    config: CrawlConfig,
    use: Callable[[Fetched], Outcome],
    num_partitions: int,
) -> dict[str, Outcome]:
    results: dict[str, Outcome] = {}
    queues: dict[str, deque[Target]] = {}
    for target in targets:
        queues.setdefault(host_of(target.url), deque()).append(target)
    sites = {urls.domain_of_host(host) for host in queues}
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1) as thread:
        async with (
            open_crawler(config, sites, num_partitions) as crawler,
            asyncio.TaskGroup() as group,
        ):

            def finish(fetched: Fetched, target: Target) -> Outcome:
                return use(hashed(fetched, target, config))

            async def work(queue: deque[Target]) -> None:
                while queue:
                    target = queue.popleft()
                    async with crawler.fetched(target) as fetched:
                        results[target.key] = await loop.run_in_executor(
                            thread, finish, fetched, target
                        )

            for queue in queues.values():
                for _ in range(min(config.per_host_concurrency, len(queue))):
                    group.create_task(work(queue))
    return results
