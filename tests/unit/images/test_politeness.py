import asyncio
import itertools
import time

import pytest

from pipeline.images.config import CrawlConfig
from pipeline.images.politeness import BudgetSpentError, HostBudget, HostPausedError, capacity


def config(**fields):
    defaults = {"per_host_delay_s": 0.0, "deadline_s": 1.0}
    return CrawlConfig(user_agent="TestBot/1.0 (+https://test.example/bot)", **(defaults | fields))


async def visit(budget, host="a.com", places=None):
    places = places or asyncio.Semaphore(100)
    async with budget.turn(host, places):
        started = time.monotonic()
    places.release()
    return started


def starts_of(num, **fields):
    async def all_visits():
        budget, places = HostBudget(config(**fields)), asyncio.Semaphore(100)
        running, most = [0], [0]

        async def one():
            async with budget.turn("a.com", places):
                started = time.monotonic()
                running[0] += 1
                most[0] = max(most[0], running[0])
                await asyncio.sleep(0.01)
                running[0] -= 1
            return started

        return await asyncio.gather(*(one() for _ in range(num))), most[0]

    return asyncio.run(all_visits())


def gaps(starts):
    return [later - earlier for earlier, later in itertools.pairwise(sorted(starts))]


def test_starts_at_one_host_keep_the_delay():
    starts, _ = starts_of(5, per_host_concurrency=4, per_host_delay_s=0.03)
    assert min(gaps(starts)) >= 0.028


def test_starts_keep_the_delay_when_places_are_scarce():
    async def visits():
        budget, places = HostBudget(config(per_host_delay_s=0.05)), asyncio.Semaphore(0)
        waiting = asyncio.gather(*(visit(budget, places=places) for _ in range(2)))
        await asyncio.sleep(0.2)
        places.release()
        return await waiting

    assert min(gaps(asyncio.run(visits()))) >= 0.045


def test_no_more_requests_run_at_one_host_than_allowed():
    assert starts_of(12, per_host_concurrency=3)[1] == 3


def test_a_host_that_asked_for_a_pause_gets_it_and_others_do_not_wait():
    async def visits():
        budget = HostBudget(config())
        budget.pause("a.com", 0.5)
        before = time.monotonic()
        other, paused = await asyncio.gather(visit(budget, "b.com"), visit(budget, "a.com"))
        return other - before, paused - before

    other_s, paused_s = asyncio.run(visits())
    assert other_s < 0.4
    assert paused_s >= 0.45


def test_a_pause_longer_than_a_pictures_deadline_is_not_waited_for():
    async def visits():
        budget = HostBudget(config())
        budget.pause("a.com", 60.0)
        before = time.monotonic()
        for _ in range(3):
            with pytest.raises(HostPausedError):
                await visit(budget)
        return time.monotonic() - before, budget.pause_left_s("a.com")

    waited_s, left_s = asyncio.run(visits())
    assert waited_s < 0.5
    assert 59 < left_s <= 60


def test_a_budget_is_spent_to_the_last_request_and_no_further():
    async def visits():
        budget = HostBudget(config(per_host_budget=5))
        return await asyncio.gather(*(visit(budget) for _ in range(9)), return_exceptions=True)

    found = asyncio.run(visits())
    assert sum(isinstance(each, float) for each in found) == 5
    assert sum(isinstance(each, BudgetSpentError) for each in found) == 4


def test_a_hosts_time_ends_its_turns_also_where_it_answers_slowly():
    async def visits():
        budget = HostBudget(config(host_deadline_s=0.05))
        await visit(budget)
        await asyncio.sleep(0.06)
        with pytest.raises(BudgetSpentError):
            await visit(budget)

    asyncio.run(visits())


def test_a_delay_without_end_ends_the_hosts_turns_and_not_the_crawl():
    async def visits(delay_s):
        budget = HostBudget(config())
        await visit(budget)
        budget.slow_down("a.com", delay_s)
        with pytest.raises(BudgetSpentError):
            await visit(budget)

    for delay_s in (1e9, float("inf")):
        asyncio.run(asyncio.wait_for(visits(delay_s), 5))


def test_a_budget_is_what_fits_at_the_delay_that_robots_txt_asks_for():
    settings = config(per_host_budget=1000, host_deadline_s=3600.0)
    assert capacity(settings, 1000, 0.0) == 1000
    assert capacity(settings, 1000, 1.0) == 1000
    assert capacity(settings, 1000, 10.0) == 360
    assert capacity(settings, 1000, 300.0) == 12
    assert capacity(settings, 1000, 300.1) == 0, "longer than anybody here waits"

    async def visits():
        budget = HostBudget(config(host_deadline_s=0.3))
        budget.slow_down("a.com", 0.1)
        return await asyncio.gather(*(visit(budget) for _ in range(4)), return_exceptions=True)

    found = asyncio.run(visits())
    assert sum(isinstance(each, float) for each in found) == 2


def test_partitions_share_the_budget_of_a_host_to_which_redirects_lead():
    async def visits(num_partitions, sites):
        budget = HostBudget(config(per_host_budget=13), sites, num_partitions)
        calls = (visit(budget, "img.a.com") for _ in range(20))
        found = await asyncio.gather(*calls, return_exceptions=True)
        return sum(isinstance(each, float) for each in found)

    assert asyncio.run(visits(1, {"b.com"})) == 13
    owner, other = (asyncio.run(visits(3, {site})) for site in ("a.com", "b.com"))
    assert (owner, other) == (7, 2)
    assert owner + 3 * other <= 13, "whoever owns it, and were it nobody"


def test_the_request_that_told_the_delay_counts_as_the_last_one():
    async def wait():
        budget = HostBudget(config())
        first = await visit(budget)
        budget.slow_down("a.com", 0.2)
        return await visit(budget) - first

    assert asyncio.run(wait()) >= 0.19
