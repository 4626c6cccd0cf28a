import asyncio
import itertools
import time

import pytest

from pipeline.images.politeness import HostBudget, Robots, RobotsAnswer, opted_out, tdm_reserved


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        (["noai"], True),
        (["noimageai"], True),
        (["NOAI, NoImageAI"], True),
        (["noml"], True),
        (["all"], False),
        (["nofollow, noarchive"], False),
        (["nofollow", "noindex"], True),
        (["none"], True),
        (["otherbot: noai"], False),
        (["otherbot: noindex, nofollow"], False),
        (["testbot: noai"], True),
        (["TestBot: noindex"], True),
        (["*: noai"], True),
        (["otherbot: noindex, testbot: noai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
        (["max-image-preview: none"], False),
        (["max-snippet: 0, noai"], True),
    ],
)
def test_robots_tags_opt_out_for_everyone_or_for_us(values, expected):
    assert opted_out(values, "testbot") is expected


def test_only_the_value_one_reserves_text_and_data_mining():
    assert tdm_reserved("1")
    assert tdm_reserved(" 1 ")
    assert not tdm_reserved("0")
    assert not tdm_reserved(None)


class Site:
    """Counts how often its robots.txt is asked for."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def fetch(self, url):
        self.asked.append(url)
        await asyncio.sleep(0)
        return self.answer


def refusals(answer, *urls):
    site = Site(answer)

    async def ask():
        robots = Robots("testbot", site.fetch)
        return await asyncio.gather(*(robots.refusal(url) for url in urls))

    return asyncio.run(ask()), site.asked


RULES = b"User-agent: *\nDisallow: /no/\nAllow: /no/yes\n\nUser-agent: testbot\nDisallow: /t/\n"


def test_rules_for_our_agent_replace_those_for_all():
    urls = ["http://a.com/no/1.jpg", "http://a.com/t/1.jpg", "http://a.com/2.jpg"]
    assert refusals(RobotsAnswer(200, RULES), *urls)[0] == [None, "robots_disallowed", None]


def test_the_longest_rule_wins():
    rules = RobotsAnswer(200, b"User-agent: *\nDisallow: /no/\nAllow: /no/yes\n")
    urls = ["http://a.com/no/1.jpg", "http://a.com/no/yes.jpg"]
    assert refusals(rules, *urls)[0] == ["robots_disallowed", None]


def test_robots_txt_is_fetched_once_per_origin_however_many_ask_at_once():
    urls = [f"http://a.com/{i}.jpg" for i in range(20)] + ["https://a.com/1.jpg"]
    _, asked = refusals(RobotsAnswer(200, b""), *urls)
    assert sorted(asked) == ["http://a.com/robots.txt", "https://a.com/robots.txt"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429])
def test_a_missing_robots_txt_allows_everything(status):
    assert refusals(RobotsAnswer(status), "http://a.com/1.jpg")[0] == [None]


@pytest.mark.parametrize("status", [500, 503])
def test_a_failing_server_forbids_everything(status):
    assert refusals(RobotsAnswer(status), "http://a.com/1.jpg")[0] == ["robots_disallowed"]


def test_where_nothing_answers_the_pictures_share_the_reason():
    answer = RobotsAnswer(None, drop_reason="dns_error")
    assert refusals(answer, "http://a.com/1.jpg")[0] == ["dns_error"]


def starts_of(budget, num, host="a.com"):
    starts, running, most = [], [0], [0]

    async def visit():
        async with budget.turn(host):
            starts.append(time.monotonic())
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0.01)
            running[0] -= 1

    async def all_visits():
        await asyncio.gather(*(visit() for _ in range(num)))

    asyncio.run(all_visits())
    return starts, most[0]


def test_starts_at_one_host_keep_the_delay():
    starts, _ = starts_of(HostBudget(4, 0.03), 5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert min(gaps) >= 0.028


def test_no_more_requests_run_at_one_host_than_allowed():
    assert starts_of(HostBudget(3, 0.0), 12)[1] == 3


def test_a_host_that_asked_for_a_pause_gets_it():
    budget = HostBudget(1, 0.0)

    async def visits():
        async with budget.turn("a.com"):
            budget.pause("a.com", 0.05)
        before = time.monotonic()
        async with budget.turn("a.com"):
            return time.monotonic() - before

    assert asyncio.run(visits()) >= 0.045
