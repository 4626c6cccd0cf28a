"""How a crawl goes when nothing is wrong: outcomes, order, pace, budgets."""

import hashlib
import itertools
import time

import pytest

from pipeline.images.fetch import Target
from tests.fault_server import AGENT, OTHER_PICTURE, PICTURE, FaultServer


@pytest.fixture(scope="module")
def running():
    with FaultServer() as server:
        yield server


@pytest.fixture
def world(running):
    running.reset()
    return running


def test_a_good_picture_comes_with_what_was_learned_on_the_way(world):
    before_s = time.time()
    (found,) = world.fetch("http://a.example/good.jpg")
    assert found.body == PICTURE
    assert (found.drop_reason, found.status, found.etag, found.attempts) == (None, 200, '"v1"', 1)
    assert found.sha256 == hashlib.sha256(PICTURE).hexdigest()
    assert before_s <= found.started_s <= time.time()
    row = found.log_row()
    assert "body" not in row
    assert row["num_bytes"] == len(PICTURE)


def test_an_untyped_picture_is_told_by_its_first_bytes(world):
    assert world.fetch("http://a.example/untyped")[0].body == PICTURE


def test_a_picture_that_comes_in_gzip_is_what_it_holds(world):
    assert world.fetch("http://a.example/zipped.jpg")[0].body == PICTURE


def test_redirects_are_followed_up_to_the_limit(world):
    (found,) = world.fetch("http://a.example/hop/5")
    assert found.body == PICTURE
    assert found.final_url == "http://a.example/good.jpg"


def test_what_may_pass_is_tried_again_and_nothing_else(world):
    flaky, gone, busy = world.fetch(
        *(f"http://{name}.example/{name}.jpg" for name in ("flaky", "gone", "busy"))
    )
    assert (flaky.body, flaky.attempts) == (PICTURE, 3)
    assert (gone.attempts, gone.transient) == (1, False)
    assert (busy.attempts, busy.transient) == (3, True)


def test_every_request_names_us_and_a_sites_files_are_asked_for_once(world):
    world.fetch(*(f"http://a.example/good/{index}.jpg" for index in range(12)))
    assert {each["agent"] for each in world.requests} == {AGENT}
    assert len(world.seen("/robots.txt")) == 1
    assert len(world.seen("/.well-known/tdmrep.json")) == 1


def test_one_host_never_sees_more_requests_at_once_than_allowed(world):
    urls = [f"http://a.example/good/{index}.jpg" for index in range(20)]
    world.fetch(*urls, per_host_concurrency=3)
    assert world.most == 3


def test_transfers_over_all_hosts_are_bounded(world):
    urls = [f"http://h{index % 10}.example/good/{index}.jpg" for index in range(40)]
    found = world.fetch(*urls, execution={"max_transfers": 4})
    assert world.most <= 4
    assert all(each.body == PICTURE for each in found)


def test_hosts_that_wait_for_their_turn_take_no_place_from_others(world):
    slow = [f"http://calm.example/good/{index}.jpg" for index in range(4)]
    quick = [f"http://b.example/good/{index}.jpg" for index in range(20)]
    world.fetch(*slow, *quick, execution={"max_transfers": 1})
    times = [each["time_s"] for each in world.requests if each["host"] == "calm.example"]
    last_quick = max(each["time_s"] for each in world.requests if each["host"] == "b.example")
    assert last_quick < times[-1]


def test_requests_to_one_host_keep_the_delay_that_it_or_we_ask_for(world):
    urls = [f"http://{host}.example/good/{i}.jpg" for host in ("calm", "other") for i in range(3)]
    world.fetch(*urls, per_host_delay_s=0.1)
    for host, delay_s in (("calm.example", 0.2), ("other.example", 0.1)):
        times = [each["time_s"] for each in world.requests if each["host"] == host]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times[1:])]
        assert len(gaps) == 3
        assert min(gaps) >= delay_s - 0.02


def test_a_host_gets_its_budget_of_requests_and_not_one_more(world):
    bad = [f"http://a.example/{name}/{i}" for i in range(6) for name in ("error", "hop/3", "loop")]
    found = world.fetch(*bad, *(f"http://b.example/good/{i}.jpg" for i in range(6)),
                        per_host_budget=9)  # fmt: skip
    assert len(world.asked_of("a.example")) == 9
    assert len(world.asked_of("b.example")) == 8
    reasons = [each.drop_reason for each in found]
    assert reasons[-6:] == [None] * 6
    assert reasons[-7] == "over_host_budget"
    assert set(reasons[:-6]) <= {"http_error", "too_many_redirects", "over_host_budget", None}


def test_a_host_too_large_for_its_time_gets_what_fits(world):
    urls = [f"http://a.example/good/{index}.jpg" for index in range(20)]
    found = world.fetch(*urls, per_host_delay_s=0.05, host_deadline_s=0.3)
    assert len(world.asked_of("a.example")) <= 6
    assert [each.drop_reason for each in found[:2]] == [None, None]
    assert found[-1].drop_reason == "over_host_budget"
    assert (found[-1].transient, found[-1].body) == (False, None)


def test_outcomes_come_back_in_the_order_of_the_targets(world):
    urls = [f"http://h{index % 3}.example/good/{index}.jpg" for index in range(9)]
    urls.insert(4, "http://a.example/slow.jpg")
    assert [found.url for found in world.fetch(*urls)] == urls


def held(path, **known):
    return Target("0" * 32, f"http://a.example/{path}", **known)


def test_a_copy_that_is_held_is_re_checked_by_its_etag(world):
    sha256 = hashlib.sha256(PICTURE).hexdigest()
    (same,) = world.fetch_targets([held("tagged.jpg", etag='"v1"', held_sha256=sha256)])
    assert (same.drop_reason, same.status, same.body) == ("unchanged", 304, None)
    assert (same.etag, same.sha256) == ('"v1"', sha256)
    assert world.seen("/tagged.jpg")[0]["etag"] == '"v1"'
    (changed,) = world.fetch_targets([held("changed.jpg", etag='"v1"', held_sha256=sha256)])
    assert (changed.body, changed.etag) == (OTHER_PICTURE, '"v2"')


def test_bytes_that_are_held_are_unchanged_without_any_etag(world):
    sha256 = hashlib.sha256(PICTURE).hexdigest()
    (same,) = world.fetch_targets([held("untyped.jpg", held_sha256=sha256)])
    assert (same.drop_reason, same.status, same.body) == ("unchanged", 200, None)


def test_bytes_that_are_not_those_of_the_source_are_refused_by_policy(world):
    (first,) = world.fetch("http://a.example/changing.jpg")
    target = held("changing.jpg", given_sha256=first.sha256)
    (second,) = world.fetch_targets([target])
    assert (second.drop_reason, second.body) == ("sha256_mismatch", None)
    assert second.sha256 not in (None, first.sha256)
    (kept,) = world.fetch_targets([target], refuse_sha256_mismatch=False)
    assert kept.drop_reason is None
    (right,) = world.fetch_targets(
        [held("good.jpg", given_sha256=hashlib.sha256(PICTURE).hexdigest())]
    )
    assert right.body == PICTURE


def test_partitions_together_keep_to_the_budget_of_a_host_that_redirects_lead_to(world):
    """Three partitions, each of a host of its own, all sent on to one that belongs to none."""
    budget, found = 12, []
    for site in ("a", "b", "c"):
        urls = [f"http://{site}.example/to?url=http://far.example/colour/{n}.jpg" for n in range(9)]
        found += world.fetch(*urls, num_partitions=3, per_host_budget=budget * 2)
    asked = len(world.asked_of("far.example"))
    assert 0 < asked <= budget
    kept = sum(each.drop_reason is None for each in found)
    assert kept == asked - 3 * 2, "robots.txt and tdmrep.json once per partition"
    assert {each.drop_reason for each in found} == {None, "over_host_budget"}
