import json

import pytest

from pipeline.curation import costs, pilot
from pipeline.curation.config import Prices
from pipeline.errors import DataError
from pipeline.results import Result
from pipeline.steps import Spent

CONFIG = {
    "crawl": {"user_agent": "TestBot/1.0 (+https://test.example/bot)"},
    "filters": {"min_side_px": 64},
    "shards": {"samples_per_shard": 8, "views_px": []},
}
DROPPED = {"empty_caption": 4, "not_in_sample": 900, "http_error": 20, "invalid_url": 3}
BY_READER = {"empty_caption": 4, "invalid_url": 1, "not_in_sample": 900}


def results(folder, kept=75):
    """A finished balance and a finished curate stage, as far as a pilot reads them."""
    matched = {"kept": kept, "dropped": DROPPED, "dropped_by_reader": BY_READER, "fixed_cpu_s": 5.0}
    steps, spent = {"match": [matched]}, {"match": [Spent(0.0, 1.0, 9.0)]}
    balanced, curated = str(folder / "balance"), str(folder / "curate")
    costs.record(balanced, {}, steps, spent)
    costs.record(curated, {}, {}, {})
    content = {
        "funnel": {"candidates": 927 + kept, "kept": kept, "dropped": DROPPED},
        "num_samples": kept,
        "shards": [{"num_bytes": 5_000_000_000}],
        "views": {},
    }
    return (
        Result("balance", balanced, {"content": {"sample": 0.1}}, "hash"),
        Result("curate", curated, {"config": CONFIG, "content": content}, "hash"),
    )


def test_what_readers_drop_is_exact_and_the_rest_is_scaled(tmp_path):
    found = pilot.extrapolate(*results(tmp_path), Prices())
    # 1,002 candidates, 5 fell in the reader, 97 of the other 997 are in the sample.
    assert (found.candidates, found.num_used) == (1002, 97)
    exact = found.dropped["empty_caption"]
    assert (exact.value, exact.low95, exact.high95) == (4, 4, 4)
    assert "not_in_sample" not in found.dropped
    factor = 997 / 97
    assert found.dropped["http_error"].value == pytest.approx(20 * factor)
    both = found.dropped["invalid_url"]
    assert both.value == pytest.approx(1 + 2 * factor)
    assert 1 < both.low95 < both.value < both.high95
    kept = found.estimates["kept_pairs"]
    assert kept.value == pytest.approx(75 * factor)
    together = kept.value + sum(each.value for each in found.dropped.values())
    assert together == pytest.approx(found.candidates)
    assert found.estimates["cpu_hours"].value * 3600 == pytest.approx(9 + 4 * (factor - 1))
    assert 0 < found.unseen_high95 < 60
    assert "cost" not in found.estimates
    json.dumps(found.as_json())


def test_what_a_sample_cannot_show_is_noted(tmp_path):
    found = pilot.extrapolate(*results(tmp_path), Prices())
    assert "upper bound" in found.estimates["kept_pairs"].note
    assert found.dropped["empty_caption"].note == "counted, not estimated"


def test_costs_follow_from_the_prices_that_were_given(tmp_path):
    run = results(tmp_path)
    hours = pilot.extrapolate(*run, Prices()).estimates["cpu_hours"]
    stored_gb = pilot.extrapolate(*run, Prices()).estimates["stored_bytes"].value / 1e9
    cost = pilot.extrapolate(*run, Prices(per_cpu_hour=0.04)).estimates["cost"]
    assert cost.value == pytest.approx(0.04 * hours.value)
    assert cost.high95 == pytest.approx(0.04 * hours.high95)
    assert cost.note == "in the currency of the prices: 0.04 per CPU hour"
    both = pilot.extrapolate(*run, Prices(per_cpu_hour=0.04, per_gb=0.02)).estimates["cost"]
    assert both.value == pytest.approx(cost.value + 0.02 * stored_gb)


def test_an_empty_sample_is_refused(tmp_path):
    run = results(tmp_path)
    run[1].content["funnel"] |= {"candidates": 905}
    with pytest.raises(DataError, match=r"the sample of 0\.1 holds none of 900 candidates"):
        pilot.extrapolate(*run, Prices())
