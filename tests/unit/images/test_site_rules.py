import asyncio
import json
import time

import pytest

from pipeline.images.failures import FailedError
from pipeline.images.site_rules import (
    SiteFile,
    SiteRules,
    opted_out,
    reservations_of,
    tdm_reserved,
)


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
        (["unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noai"], True),
        (["testbot/1.0: noai"], True),
        (["otherbot/2: noai"], False),
    ],
)
def test_robots_tags_opt_out_for_everyone_or_for_us(values, expected):
    assert opted_out(values, "testbot") is expected


def test_only_the_value_one_reserves_text_and_data_mining():
    assert tdm_reserved("1")
    assert tdm_reserved(" 1 ")
    assert tdm_reserved("1, 1")
    assert not tdm_reserved("0")
    assert not tdm_reserved(None)


class Site:
    """Counts how often its files are asked for."""

    def __init__(self, robots, tdmrep=None):
        self.robots, self.tdmrep, self.asked, self.slowed = robots, tdmrep, [], []

    async def fetch(self, url):
        self.asked.append(url)
        await asyncio.sleep(0)
        if url.endswith("/robots.txt"):
            return self.robots
        return SiteFile(404) if self.tdmrep is None else SiteFile(200, self.tdmrep)

    def slow_down(self, url, delay_s):
        self.slowed.append((url, delay_s))

    def ask(self, *urls):
        async def together():
            rules = SiteRules("testbot", self.fetch, self.slow_down)
            return await asyncio.gather(*(rules.refusal(url) for url in urls))

        found = asyncio.run(together())
        return [None if failure is None else failure.reason for failure in found]


def refusals(robots, *urls):
    return Site(robots).ask(*urls)


RULES = b"User-agent: *\nDisallow: /no/\nAllow: /no/yes\n\nUser-agent: testbot\nDisallow: /t/\n"


def test_rules_for_our_agent_replace_those_for_all():
    urls = ["http://a.com/no/1.jpg", "http://a.com/t/1.jpg", "http://a.com/2.jpg"]
    assert refusals(SiteFile(200, RULES), *urls) == [None, "robots_disallowed", None]


def test_the_longest_rule_wins():
    rules = SiteFile(200, b"User-agent: *\nDisallow: /no/\nAllow: /no/yes\n")
    urls = ["http://a.com/no/1.jpg", "http://a.com/no/yes.jpg"]
    assert refusals(rules, *urls) == ["robots_disallowed", None]


@pytest.mark.parametrize(
    "robots",
    [
        b"\xef\xbb\xbfUser-agent: *\nDisallow: /\n",
        b"User-agent: TestBot/1.0\nDisallow: /\n",
        b"User-agent: *\nDisallow: /\n\nUser-agent: test\nAllow: /\n",
        b"User-agent: *\nDisallow: /\n\nUser-agent: testbots\nAllow: /\n",
        b"User-agent: testbot\nCrawl-delay: 5\nUser-agent: otherbot\nDisallow: /\n",
        b"User-agent: otherbot\nSitemap: http://a.com/s\nUser-agent: testbot\nDisallow: /\n",
        b"User-agent: testbot\nAllow: /y\n\nUser-agent: x\nAllow: /\n\n"
        b"User-agent: testbot\nDisallow: /\n",
    ],
)
def test_a_group_is_found_as_rfc_9309_means_it(robots):
    assert refusals(SiteFile(200, robots), "http://a.com/1.jpg") == ["robots_disallowed"]


@pytest.mark.parametrize(
    "robots",
    [
        b"Disallow: /\n",
        b"User-agent: test\nDisallow: /\n",
        b"User-agent: testbot-news\nDisallow: /\n",
        b"User-agent: *\nDisallow: /\n\nUser-agent: TESTBOT\nAllow: /\n",
    ],
)
def test_a_group_of_others_is_not_ours(robots):
    assert refusals(SiteFile(200, robots), "http://a.com/1.jpg") == [None]


@pytest.mark.parametrize(
    "robots",
    [
        b"User-agent: *\nCrawl-delay: 7\n",
        b"User-agent: *\nDisallow: /x\nCrawl-delay: 7\n",
        b"User-agent: *\nCrawl-delay: 7\nDisallow: /x\n",
        b"User-agent: testbot\nCrawl-delay: 7\nUser-agent: other\nAllow: /\n",
    ],
)
def test_a_crawl_delay_belongs_to_its_group_wherever_it_stands(robots):
    site = Site(SiteFile(200, robots))
    site.ask("http://a.com/1.jpg")
    assert site.slowed == [("http://a.com", 7.0)]


@pytest.mark.parametrize("status", [429, 500, 503, None])
def test_a_tdmrep_that_cannot_be_read_might_have_reserved_it(status):
    site = Site(SiteFile(200, b""))

    async def fetch(url):
        if url.endswith("/robots.txt"):
            return SiteFile(404)
        return SiteFile(status, failure=FailedError("timeout", transient=True))

    site.fetch = fetch
    assert site.ask("http://a.com/1.jpg") == ["tdmrep_unreachable"]


def test_a_tdmrep_of_endless_rules_or_stars_holds_nobody_up():
    many = json.dumps([{"location": f"/{i}/*x*y*z", "tdm-reservation": 0} for i in range(9000)])
    stars = json.dumps([{"location": "/a" + "*b" * 100_000, "tdm-reservation": 0}])
    started = time.perf_counter()
    for body, reserved in ((many, "/other.jpg"), (stars, "/a.jpg")):
        rules = reservations_of(body.encode())
        found = next(held for pattern, held in rules if pattern.match(reserved))
        assert found, reserved
    assert time.perf_counter() - started < 1.0


def test_a_sites_files_are_fetched_once_per_origin_however_many_ask_at_once():
    site = Site(SiteFile(200, b""))
    spellings = ["http://A.com/1.jpg", "http://a.com:80/1.jpg", "http://a.com./1.jpg"]
    site.ask(*(f"http://a.com/{i}.jpg" for i in range(20)), "https://a.com/1.jpg", *spellings)
    assert sorted(site.asked) == [
        "http://a.com/.well-known/tdmrep.json",
        "http://a.com/robots.txt",
        "https://a.com/.well-known/tdmrep.json",
        "https://a.com/robots.txt",
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_missing_robots_txt_allows_everything(status):
    assert refusals(SiteFile(status), "http://a.com/1.jpg") == [None]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_robots_txt_that_cannot_be_read_forbids_everything(status):
    site = Site(SiteFile(status))
    assert site.ask("http://a.com/1.jpg") == ["robots_unreachable"]
    assert site.asked == ["http://a.com/robots.txt"]


def test_where_nothing_answers_the_pictures_share_the_reason():
    answer = SiteFile(None, failure=FailedError("dns_error"))
    assert refusals(answer, "http://a.com/1.jpg") == ["dns_error"]


def test_a_crawl_delay_is_told_with_the_site():
    site = Site(SiteFile(200, b"User-agent: testbot\nCrawl-delay: 7\n"))
    site.ask("http://a.com/1.jpg")
    assert site.slowed == [("http://a.com", 7.0)]


def rules(*pairs):
    return json.dumps([{"location": at, "tdm-reservation": value} for at, value in pairs]).encode()


@pytest.mark.parametrize(
    ("listed", "url", "reason"),
    [
        (rules(("/", 1)), "http://a.com/a.jpg", "opted_out_site"),
        (rules(("/", 0)), "http://a.com/a.jpg", None),
        (rules(("/b/", 1)), "http://a.com/a.jpg", None),
        (rules(("/b/", 1)), "http://a.com/b/a.jpg", "opted_out_site"),
        (rules(("/b/free", 0), ("/b/", 1)), "http://a.com/b/free/a.jpg", None),
        (rules(("/b/", 1), ("/b/free", 0)), "http://a.com/b/free/a.jpg", "opted_out_site"),
        (rules(("/*.jpg$", 1)), "http://a.com/b/a.jpg", "opted_out_site"),
        (rules(("/*.jpg$", 1)), "http://a.com/b/a.jpg?x", None),
        (rules(("/*.jpg", 1)), "http://a.com/b/a.jpg?x", "opted_out_site"),
        (rules(("/*b*a", 1)), "http://a.com/x/b/y/a.jpg", "opted_out_site"),
        (rules(("/a-%24", 1)), "http://a.com/a-$", "opted_out_site"),
        (rules(("/a+(b)", 1)), "http://a.com/a+(b)", "opted_out_site"),
        (rules(("/", "1")), "http://a.com/a.jpg", "opted_out_site"),
        (b"no json", "http://a.com/a.jpg", None),
        (b'{"location": "/"}', "http://a.com/a.jpg", None),
        (b'[1, {"tdm-reservation": 1}, {"location": 7}]', "http://a.com/a.jpg", None),
        (b"[" * 100_000, "http://a.com/a.jpg", None),
    ],
)
def test_the_first_location_that_matches_says_whether_a_path_is_reserved(listed, url, reason):
    assert Site(SiteFile(404), listed).ask(url) == [reason]


def test_a_tdmrep_that_robots_txt_forbids_is_not_asked_for():
    site = Site(SiteFile(200, b"User-agent: *\nDisallow: /.well-known/\n"), rules(("/", 1)))
    assert site.ask("http://a.com/a.jpg") == [None]
    assert site.asked == ["http://a.com/robots.txt"]


def test_a_hostile_pattern_takes_no_time():
    ((pattern, _),) = reservations_of(rules(("/" + "*a" * 200 + "b", 1)))
    before = time.monotonic()
    assert not pattern.match("/" + "a" * 8000)
    assert time.monotonic() - before < 1
