"""Fetch the pictures of one partition of hosts and hand each outcome on.

Per host a few coroutines take its URLs in turn; every body is handed to ``use`` (decode, filter,
store) in a thread and dropped, so that memory stays bounded. Files of the run's own folder are
read one after the other.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline.images.config import CrawlConfig
from pipeline.images.fetch import Fetched, Target, host_of, open_crawler
from pipeline.images.local_files import is_local, read_local

Outcome = TypeVar("Outcome")


def crawl(
    targets: Sequence[Target], config: CrawlConfig, use: Callable[[Fetched], Outcome]
) -> list[Outcome]:
    """Fetch every target once and hand each outcome to ``use``.

    Args:
        targets: Pictures with distinct keys, usually all of one partition of hosts.
        config: Who we are, where we may go, how much we take.
        use: Called once per target, in one helper thread; what it returns is collected.

    Returns:
        What ``use`` returned, in the order of ``targets``.
    """
    root, max_bytes = config.execution.local_root, config.max_bytes
    local = [target for target in targets if is_local(target)]
    results = {target.key: use(read_local(target, root, max_bytes)) for target in local}
    remote = [target for target in targets if target.key not in results]
    if remote:
        results |= asyncio.run(_crawl(remote, config, use))
    return [results[target.key] for target in targets]


async def _crawl(
    targets: Sequence[Target], config: CrawlConfig, use: Callable[[Fetched], Outcome]
) -> dict[str, Outcome]:
    results: dict[str, Outcome] = {}
    queues: dict[str, deque[Target]] = {}
    for target in targets:
        queues.setdefault(host_of(target.url), deque()).append(target)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1) as thread:
        async with open_crawler(config) as crawler, asyncio.TaskGroup() as group:

            async def work(queue: deque[Target]) -> None:
                while queue:
                    target = queue.popleft()
                    async with crawler.fetched(target) as fetched:
                        results[target.key] = await loop.run_in_executor(thread, use, fetched)

            for queue in queues.values():
                for _ in range(min(config.per_host_concurrency, len(queue))):
                    group.create_task(work(queue))
    return results
