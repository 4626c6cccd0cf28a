from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipeline.curation.extrapolation import (
    KEPT,
    DomainSums,
    Estimate,
    Scale,
    _per_pair,
    _wilson,
    domain_sums,
    say,
)
from pipeline.evaluation.metrics import proportion
from pipeline.images.config import CrawlConfig
from pipeline.images.pool import CRAWL_LOG
from pipeline.shards.writer import publish_table


def sums_of(num, **found):
    """Sums over domains of ``num[h]`` addresses with ``found[kind][h]`` of a kind."""
    sums = DomainSums()
    for index, each in enumerate(num):
        sums.add(each, Counter({kind: counts[index] for kind, counts in found.items()}))
    return sums


@pytest.mark.parametrize(("count", "num"), [(0, 7), (3, 7), (7, 7), (250, 10_000)])
def test_intervals_of_independent_pairs_are_wilsons(count, num):
    expected = proportion(count, num)
    assert _wilson(count, num, 1.0) == pytest.approx((expected.low95, expected.high95))


def test_the_design_effect_is_1_where_domains_are_alike_and_grows_with_their_size():
    alike = sums_of([10] * 50, http_error=[1] * 50)
    assert alike.design_effect("http_error") == 1.0
    whole = sums_of([10] * 50, http_error=[10] * 5 + [0] * 45)
    # Domains that fail whole: each counts as one draw, H / (H - 1) × n_h.
    assert whole.design_effect("http_error") == pytest.approx(10 * 50 / 49)
    assert whole.design_effect("never_seen") == 1.0
    assert sums_of([10], http_error=[3]).design_effect("http_error") == 1.0


def test_counts_become_those_of_the_whole_and_intervals_widen_with_domains_that_fail_whole():
    num = [10] * 50
    scale = Scale(1000.0, 500, sums_of(num, gone=[1] * 50, dns_error=[10] * 5 + [0] * 45))
    independent, together = (scale.count(kind, 50, "pairs") for kind in ("gone", "dns_error"))
    assert independent.value == together.value == 50_000
    assert independent.low95 < 50_000 < independent.high95
    assert together.high95 - together.low95 > 2.5 * (independent.high95 - independent.low95)


def test_intervals_hold_the_truth_of_domains_that_fail_whole():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        num = rng.integers(1, 20, 80)
        gone = np.where(rng.random(80) < 0.2, num, 0)
        scale = Scale(10.0, int(num.sum()), sums_of(num.tolist(), gone=gone.tolist()))
        found = scale.count("gone", int(gone.sum()), "pairs")
        held += found.low95 <= 0.2 * 10 * num.sum() <= found.high95
    assert 180 <= held <= 200


def test_bytes_are_scaled_with_an_interval():
    sums = sums_of([2, 4, 2], kept=[2, 4, 2], bytes=[200, 400, 200])
    found = Scale(100.0, 8, sums).downloaded()
    assert found.value == 80_000
    assert 0 < found.low95 < found.value < found.high95
    entry = {"num_bytes": 300}
    stored = Scale(100.0, 8, sums).stored({"shards": [entry], "views": {"64": [entry]}})
    assert stored.value == 60_000
    ratio = (stored.high95 - stored.value) / stored.value
    assert ratio == pytest.approx((found.high95 - found.value) / found.value)


def test_cpu_time_grows_along_the_line_and_fixed_costs_stay():
    nums = [10, 20, 30, 40, 10, 20, 30, 40]
    tasks = [{"cpu_s": 3 + 0.5 * n, "fixed_cpu_s": 2.0, "num_pairs": n} for n in nums]
    found = Scale(100.0, 200, DomainSums()).cpu_hours({"crawl": tasks})
    assert found.value * 3600 == pytest.approx(8 * 3 + 0.5 * 200 * 100)
    assert found.low95 == pytest.approx(found.value)  # no noise: the line is certain


def test_few_tasks_give_the_quotient_and_a_step_without_pairs_does_not_grow():
    assert _per_pair([2.0, 4.0], [10, 20], 30) == (pytest.approx(0.2), pytest.approx(0.0))
    assert _per_pair([3.0], [10], 30)[0] == pytest.approx(0.3)
    assert _per_pair([3.0], [0], 30) == (0.0, 0.0)
    # A line that falls says nothing.
    assert _per_pair([9.0] * 7 + [1.0], [1] * 7 + [9], 16)[0] == pytest.approx(64 / 16)


def test_the_crawl_log_is_summed_by_registered_domain_and_host(tmp_path):
    rows = [("http://a.x.com/1", None, 100), ("http://b.x.com/2", "http_error", None)]
    rows += [("http://a.x.com/3", None, 50), ("http://y.org/4", "dns_error", None)]
    table = [
        {"key": str(i), "url": url, "drop_reason": reason, "final_url": url, "attempts": 1,
         "started_s": 0.0, "duration_s": 0.5, "num_bytes": size, "transient": False}
        for i, (url, reason, size) in enumerate(rows)
    ]  # fmt: skip
    for name, part in (("00000", table[:3]), ("00001", table[3:])):
        found = pa.Table.from_pylist(part, schema=CRAWL_LOG)
        publish_table(str(tmp_path / "crawl_log" / f"{name}.parquet"), found)
    sums = domain_sums(str(tmp_path))
    assert (sums.num_domains, sums.num, sums.num_squared) == (2, 4, 10)
    assert sums.found == {KEPT: 2, "http_error": 1, "dns_error": 1, "bytes": 150}
    assert (sums.largest_host, sums.request_s) == (2, 0.5)
    crawl = CrawlConfig(user_agent="TestBot/1.0 (+https://test.example/bot)", per_host_delay_s=2)
    found = Scale(900.0, 4, sums).least_crawl_hours(crawl)
    assert found.value == pytest.approx(2 * 900 * 2 / 3600)
    assert found.low95 < found.value < found.high95


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (12345.6, "pairs", "12,346 pairs"),
        (1.5e9, "bytes", "1.5 GB"),
        (2500.0, "bytes", "2.5 kB"),
        (3.0, "bytes", "0.003 kB"),
        (2.25, "hours", "2.25 h"),
        (0.5, "hours", "30 min"),
        (0.001, "hours", "3.6 s"),
        (1234.5, "money", "1,234.50"),
        (0.00123, "money", "0.0012"),
    ],
)
def test_numbers_are_said_with_a_fitting_unit(value, unit, expected):
    assert say(value, unit) == expected
    assert str(Estimate(value, value, value, unit)) == expected
