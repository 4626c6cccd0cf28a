"""Look-ups against a name server of the test's own."""

import asyncio
import contextlib

import pytest

from pipeline.images.resolver import CachingResolver, NameNotFoundError, NameServerError
from tests.name_server import AAAA, SERVFAIL, A, NameServer


@contextlib.asynccontextmanager
async def resolving(zone, ttl_s=60, **options):
    server = NameServer(ttl_s)
    await server.start()
    server.zone |= zone
    resolver = CachingResolver((f"127.0.0.1:{server.port}",), **options)
    try:
        yield resolver, server
    finally:
        await resolver.close()
        server.transport.close()


async def addresses(resolver, name):
    return {found["host"] for found in await resolver.resolve(name, 80)}


def test_all_addresses_of_both_families_come_with_one_question_each():
    async def ask():
        async with resolving({"shop.com": [["8.8.8.8", "2606:4700::1111"]]}) as (resolver, server):
            found = await asyncio.gather(*(addresses(resolver, "Shop.com.") for _ in range(20)))
            again = await addresses(resolver, "shop.com")
            return [*found, again], sorted(server.asked)

    found, asked = asyncio.run(ask())
    assert found == [{"8.8.8.8", "2606:4700::1111"}] * 21
    assert asked == [("shop.com", A), ("shop.com", AAAA)]


def test_a_name_that_does_not_exist_is_a_final_answer_and_remembered():
    async def ask():
        async with resolving({"empty.com": [[]]}) as (resolver, server):
            for name in ("none.com", "none.com", "empty.com"):
                with pytest.raises(NameNotFoundError, match=name):
                    await resolver.resolve(name)
            return server.asked

    asked = asyncio.run(ask())
    assert {name for name, _ in asked} == {"none.com", "empty.com"}
    assert len(asked) == len(set(asked))


def test_a_failing_name_server_may_do_better_next_time():
    async def ask():
        failures = [SERVFAIL] * 8
        async with resolving({"shop.com": [*failures, ["8.8.8.8"]]}) as (resolver, _):
            with pytest.raises(NameServerError, match=r"shop\.com"):
                await resolver.resolve("shop.com")
            for _ in range(8):
                with contextlib.suppress(NameServerError):
                    return await addresses(resolver, "shop.com")

    assert asyncio.run(ask()) == {"8.8.8.8"}


def test_answers_live_as_long_as_they_say_and_no_longer_than_allowed():
    async def ask(ttl_s, max_ttl_s):
        zone = {"shop.com": [["8.8.8.8"], ["9.9.9.9"]]}
        async with resolving(zone, ttl_s, max_ttl_s=max_ttl_s) as (resolver, _):
            first = await addresses(resolver, "shop.com")
            await asyncio.sleep(0.05)
            return first | await addresses(resolver, "shop.com")

    assert asyncio.run(ask(60, 300.0)) == {"8.8.8.8"}
    assert asyncio.run(ask(0, 300.0)) == {"8.8.8.8", "9.9.9.9"}


def test_one_that_gives_up_leaves_the_answer_to_the_others():
    async def ask():
        async with resolving({"shop.com": [["8.8.8.8"]]}) as (resolver, server):
            impatient = asyncio.create_task(resolver.resolve("shop.com"))
            patient = asyncio.create_task(addresses(resolver, "shop.com"))
            await asyncio.sleep(0)
            impatient.cancel()
            return await patient, len(server.asked)

    assert asyncio.run(ask()) == ({"8.8.8.8"}, 2)
