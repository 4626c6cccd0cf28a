"""What the web does wrong, or on purpose, against a crawler: one outcome each, in its time."""

import re
import socket
import time
import tracemalloc

import pyarrow as pa
import pytest

from pipeline.candidates import urls
from pipeline.images import failures, network_guard
from pipeline.images.pool import CRAWL_LOG
from tests.fault_server import BOMB_BYTES, DEADLINE_S, PICTURE, FaultServer, Listener, bomb

STANDS_FOR_PUBLIC = "127.0.0.2"


@pytest.fixture(scope="module")
def running():
    with FaultServer() as server:
        yield server


@pytest.fixture
def world(running):
    running.reset()
    return running


FAULTS = [
    ("http://a.example/page.jpg", "wrong_content_type"),
    ("http://a.example/lie.jpg", "wrong_content_type"),
    ("http://a.example/svg.svg", "wrong_content_type"),
    ("http://a.example/gone.jpg", "http_error"),
    ("http://a.example/empty.jpg", "http_error"),
    ("http://a.example/error.jpg", "http_error"),
    ("http://a.example/busy.jpg", "host_busy"),
    ("http://a.example/later.jpg", "host_busy"),
    ("http://a.example/big.jpg", "too_many_bytes"),
    ("http://a.example/stream.jpg", "too_many_bytes"),
    ("http://a.example/bomb.jpg", "too_many_bytes"),
    ("http://raw.example/endless.jpg", "too_many_bytes"),
    ("http://a.example/slow.jpg", "timeout"),
    ("http://a.example/drip.jpg", "timeout"),
    ("http://raw.example/silent.jpg", "timeout"),
    ("http://a.example/noai.jpg", "opted_out_image"),
    ("http://a.example/ours.jpg", "opted_out_image"),
    ("http://a.example/reserved.jpg", "opted_out_image"),
    ("http://a.example/moved.jpg", "opted_out_image"),
    ("http://endless.example/good.jpg", "over_host_budget"),
    ("https://a.example/good.jpg", "tls_error"),
    ("http://raw.example/oddplace.jpg", "invalid_url"),
    ("http://reserved.example/good.jpg", "opted_out_site"),
    ("http://partly.example/good.jpg", "opted_out_site"),
    ("http://a.example/to?url=http://reserved.example/good.jpg", "opted_out_site"),
    ("http://a.example/loop.jpg", "too_many_redirects"),
    ("http://a.example/hop/6", "too_many_redirects"),
    ("http://a.example/to?url=http://10.0.0.1/secret.jpg", "refused_address"),
    ("http://a.example/to?url=http://169.254.169.254/latest/meta-data", "refused_address"),
    ("http://a.example/to?url=http://[::ffff:10.0.0.1]/a.jpg", "refused_address"),
    ("http://a.example/to?url=http://user:word@a.example/good.jpg", "refused_address"),
    ("http://a.example/to?url=http://shop.com:22/good.jpg", "refused_address"),
    ("http://a.example/to?url=file:///etc/hostname", "invalid_url"),
    ("http://a.example/to?url=http://[broken/", "invalid_url"),
    ("http://closed.example/good.jpg", "robots_disallowed"),
    ("http://named.example/good.jpg", "robots_disallowed"),
    ("http://moved.example/good.jpg", "robots_disallowed"),
    ("http://a.example/to?url=http://closed.example/good.jpg", "robots_disallowed"),
    ("http://broken.example/good.jpg", "robots_unreachable"),
    ("http://limited.example/good.jpg", "robots_unreachable"),
    ("http://raw.example/short.jpg", "broken_body"),
    ("http://raw.example/chunk.jpg", "broken_body"),
    ("http://raw.example/badzip.jpg", "broken_body"),
    ("http://raw.example/reset.jpg", "connection_lost"),
    ("http://raw.example/resetting.jpg", "broken_body"),
    ("http://raw.example/nothing.jpg", "connection_lost"),
    ("http://raw.example/garbage.jpg", "invalid_response"),
    ("http://raw.example/header.jpg", "invalid_response"),
    ("http://raw.example/long.jpg", "invalid_response"),
    ("http://raw.example/negative.jpg", "invalid_response"),
    ("http://no-such-name.com/a.jpg", "dns_error"),
    ("http://127.0.0.1:1/a.jpg", "refused_address"),
    ("http://127.1/a.jpg", "refused_address"),
    ("ftp://a.example/a.jpg", "invalid_url"),
]


@pytest.mark.parametrize(("url", "reason"), FAULTS)
def test_each_fault_ends_in_its_own_reason_within_its_deadline(world, url, reason):
    before = time.monotonic()
    (found,) = world.fetch(url)
    assert (found.drop_reason, found.body) == (reason, None)
    # The deadline of the picture, that of robots.txt before it, and pauses of 10 to 60 ms.
    assert time.monotonic() - before < 2 * DEADLINE_S + 0.5
    assert found.duration_s < DEADLINE_S + 0.2
    pa.Table.from_pylist([found.log_row()], schema=CRAWL_LOG)
    listed = re.search(rf"^``{reason}``\s+(\S+)", failures.__doc__, re.MULTILINE)
    assert listed
    if listed[1] in ("yes", "no"):
        assert found.transient == (listed[1] == "yes")


GOOD = [
    "http://others.example/good.jpg",  # robots.txt addresses another crawler
    "http://forbidden.example/good.jpg",  # 403 for robots.txt: no rules
    "http://large.example/good.jpg",  # the rule stands behind what RFC 9309 has us read
    "http://a.example/theirs.jpg",  # X-Robots-Tag addresses another crawler
    "http://partly.example/good/free.jpg",  # the first location that matches does not reserve
    "http://raw.example/oddtag.jpg",  # header values that are no text
    "http://odd.example/good.jpg",  # a tdmrep.json that is none
]


@pytest.mark.parametrize("url", GOOD)
def test_what_only_looks_like_a_fault_is_fetched(world, url):
    (found,) = world.fetch(url)
    assert found.body == PICTURE
    pa.Table.from_pylist([found.log_row()], schema=CRAWL_LOG)


def test_a_host_is_one_host_in_every_spelling(world):
    spellings = ["a.example/umlaut.jpg", "b\u00fccher.example/good.jpg", "BÜCHER.example./good.jpg",
                 "xn--bcher-kva.example:80/good.jpg"]  # fmt: skip
    found = world.fetch(*(urls.canonical(f"http://{each}") for each in spellings))
    assert [each.body for each in found] == [PICTURE] * 4
    assert len([each for each in world.seen("/robots.txt") if "xn--" in each["host"]]) == 1


def test_a_gzip_bomb_takes_no_memory(world):
    assert len(bomb()) < BOMB_BYTES / 100
    tracemalloc.start()
    try:
        (found,) = world.fetch("http://a.example/bomb.jpg", max_bytes=2_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.drop_reason == "too_many_bytes"
    assert peak < 20_000_000


def test_few_large_bodies_are_in_memory_at_once(world):
    urls = [f"http://h{index}.example/bomb.jpg" for index in range(8)]
    tracemalloc.start()
    try:
        found = world.fetch(*urls, max_bytes=8_000_000, deadline_s=20.0,
                            execution={"max_large_transfers": 1})  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {each.drop_reason for each in found} == {"too_many_bytes"}
    assert peak < 8_000_000 + 8 * 4_000_000


def test_nothing_but_its_files_is_asked_of_a_site_that_forbids_it(world):
    world.fetch("http://closed.example/good.jpg", "http://reserved.example/good.jpg",
                "http://a.example/to?url=http://closed.example/good.jpg")  # fmt: skip
    assert set(world.asked_of("closed.example")) == {"/robots.txt"}
    assert set(world.asked_of("reserved.example")) == {"/robots.txt", "/.well-known/tdmrep.json"}


def test_a_retry_after_is_obeyed_by_all_pictures_of_the_host(world):
    urls = ["http://a.example/soon.jpg", *(f"http://a.example/good/{i}.jpg" for i in range(4))]
    found = world.fetch(*urls, per_host_concurrency=1, deadline_s=3.0)
    assert [each.body for each in found] == [PICTURE] * 5
    first, second = world.seen("/soon.jpg")
    between = [
        each for each in world.requests if first["time_s"] < each["time_s"] < second["time_s"]
    ]
    assert second["time_s"] - first["time_s"] >= 0.95
    assert between == []


def test_a_pause_longer_than_we_wait_ends_the_hosts_pictures_without_another_request(world):
    urls = ["http://a.example/later.jpg", *(f"http://a.example/good/{i}.jpg" for i in range(4))]
    before = time.monotonic()
    found = world.fetch(*urls, per_host_concurrency=1)
    assert time.monotonic() - before < DEADLINE_S
    assert {each.drop_reason for each in found} == {"host_busy"}
    assert all(each.transient and each.retry_at_s > time.time() + 80_000 for each in found)
    assert world.asked_of("a.example")[-1] == "/later.jpg"


def test_robots_that_cannot_be_read_are_asked_for_once_and_end_all_pictures_at_once(world):
    urls = [f"http://broken.example/{index}.jpg" for index in range(50)]
    before = time.monotonic()
    found = world.fetch(*urls, backoff_s=0.2)
    assert time.monotonic() - before < 2
    assert {each.drop_reason for each in found} == {"robots_unreachable"}
    assert world.asked_of("broken.example") == ["/robots.txt"]


def test_a_dead_port_is_a_connection_error_for_all_pictures(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    execution = {"resolve": {"dead.example": f"127.0.0.1:{port}"}}
    urls = (f"http://dead.example/{index}.jpg" for index in range(3))
    found = world.fetch(*urls, execution=execution)
    assert [each.drop_reason for each in found] == ["connection_error"] * 3


def test_a_listener_behind_a_refused_address_is_never_contacted(world):
    with Listener() as listener:
        port = listener.port
        world.names.zone["inside.com"] = [["127.0.0.1"]]
        world.names.zone["both.com"] = [["93.184.216.34", "127.0.0.1"]]
        world.names.zone["six.com"] = [["::ffff:127.0.0.1"]]
        hosts = ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.",
                 "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
                 "localhost", "inside.com", "both.com", "six.com"]  # fmt: skip
        direct = [f"http://{host}:{port}/a.jpg" for host in hosts]
        redirected = [f"http://a.example/to?url={url}" for url in direct]
        found = world.fetch(*direct, *redirected, ports=(80, 443, port))
        reasons = dict(
            zip([*direct, *redirected], (each.drop_reason for each in found), strict=True)
        )
        assert set(reasons.values()) == {"refused_address", "dns_error"}
        no_name = {url for url, reason in reasons.items() if reason == "dns_error"}
        assert no_name == {url for url in reasons if "localhost" in url}
        assert listener.contacts == 0


def test_a_name_that_changes_its_address_between_look_ups_reaches_nothing(world, monkeypatch):
    """The first look-ups give a server that stands for one of the public web."""
    is_public = network_guard.is_public
    monkeypatch.setattr(
        network_guard,
        "is_public",
        lambda address: str(address) == STANDS_FOR_PUBLIC or is_public(address),
    )
    with Listener(STANDS_FOR_PUBLIC) as public, Listener("127.0.0.1", public.port) as inside:
        world.names.zone["rebind.com"] = [[STANDS_FOR_PUBLIC], ["127.0.0.1"]]
        (found,) = world.fetch(
            f"http://rebind.com:{public.port}/a.jpg", ports=(80, public.port), num_retries=3
        )
        assert found.drop_reason == "refused_address"
        assert len({kind for _, kind in world.names.asked}) == 2  # A and AAAA
        assert public.contacts == 1
        assert inside.contacts == 0


def test_the_last_check_is_at_the_socket(world, monkeypatch):
    """Should aiohttp ever read a URL otherwise than the guard does, nothing is contacted."""
    with Listener() as listener:
        monkeypatch.setattr(network_guard.NetworkGuard, "check_url", lambda *_: None)
        (found,) = world.fetch(f"http://127.0.0.1:{listener.port}/a.jpg")
        assert found.drop_reason == "refused_address"
        assert listener.contacts == 0


def test_a_private_host_is_reached_only_when_allowed(world):
    url = f"http://127.0.0.1:{world.port}/good.jpg"
    assert world.fetch(url)[0].drop_reason == "refused_address"
    assert world.requests == []
    allowed = world.fetch(url, allow_private_hosts=(f"127.0.0.1:{world.port}",))
    assert allowed[0].body == PICTURE
    world.names.zone["lab.local"] = [["127.0.0.1"]]
    url = f"http://lab.local:{world.port}/good.jpg"
    assert world.fetch(url)[0].drop_reason == "refused_address"
    assert world.fetch(url, allow_private_hosts=(f"lab.local:{world.port}",))[0].body == PICTURE
