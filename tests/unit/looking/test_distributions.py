"""Counts over bounds are exact at every edge, whichever way the bound goes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.looking import plots
from pipeline.looking.distributions import Distribution, measure, rebinned
from pipeline.looking.scores import Bound, Scored, ScoredShard

FLOATS = st.floats(-2, 2, width=32) | st.just(float("nan"))
VALUES = st.lists(FLOATS, min_size=1, max_size=40) | st.lists(
    st.integers(-5, 300).map(float), min_size=1, max_size=40
)


class Columns(Scored):
    """Score tables in memory, a shard per list."""

    columns = ("score",)
    profiles = ("p",)  # type: ignore[assignment]

    def __init__(self, shards, bounds):
        self._shards, self._bounds = shards, bounds

    def bounds(self):
        return self._bounds

    def __iter__(self):
        for number, values in enumerate(self._shards):
            table = pa.table({"score": pa.array(values, pa.float32())})
            outcomes = pa.chunked_array([["kept"] * len(values)])
            yield ScoredShard(number, table, {"p": outcomes}, {})


@settings(deadline=None, max_examples=60)
@given(values=VALUES, cut=st.integers(0, 40), is_upper=st.booleans(), data=st.data())
def test_kept_samples_at_every_edge_are_those_that_pass(values, cut, is_upper, data):
    given_bound = data.draw(st.sampled_from(values).filter(np.isfinite) | st.just(0.25))
    bound = Bound("p", "score", *((None, given_bound) if is_upper else (given_bound, None)))
    found = measure(Columns([values[:cut], values[cut:]], [bound]))
    finite = np.float32([value for value in values if np.isfinite(value)]).astype(np.float64)
    if not len(finite):
        assert found == []
        return
    (one,) = found
    assert one.num == len(finite)
    assert one.num_missing == len(values) - len(finite)
    passes = (lambda edge: finite <= edge) if is_upper else (lambda edge: finite >= edge)
    expected = [int(passes(edge).sum()) for edge in one.edges]
    assert one.kept_by_edge(one.counts).tolist() == expected
    assert sorted([expected[0], expected[-1]]) == [0, len(finite)]
    assert one.passing == {"p": int(passes(given_bound).sum())}
    assert one.reached["p"].tolist() == one.counts.tolist()
    _, bars = rebinned(one, 7)
    assert sum(bars) == len(finite)
    for text in (plots.sweep(one).svg, plots.histogram(one).svg):
        assert "nan" not in text


def test_a_profiles_line_holds_what_it_keeps_and_what_this_score_alone_costs(looked):
    found = {each.column: each for each in measure(Scored(looked.results))}
    rows = looked.rows
    assert [*found] == [
        "similarity", "side_px", "aesthetic", "overlap_bits", "overlap_cosine", "unsafe",
    ]  # fmt: skip
    aesthetic = found["aesthetic"]
    assert not aesthetic.is_upper
    for profile, outcomes in (
        ("clip", {"kept"}),
        ("generative", {"kept", "out_of_bounds_aesthetic"}),
    ):
        reached = sum(row["outcomes"][profile] in outcomes for row in rows)
        assert aesthetic.reached[profile].sum() == reached
    assert aesthetic.passing == {"generative": sum(row["aesthetic"] >= 0.3 for row in rows)}
    unsafe = found["unsafe"]
    assert unsafe.is_upper
    assert unsafe.num_missing == 1
    assert unsafe.passing["generative"] == sum((row["unsafe"] or 9.0) <= 0.8 for row in rows)


def test_quantiles_are_values_of_whole_numbers(looked):
    found = {each.column: each for each in measure(Scored(looked.results))}
    sides = sorted(row["side_px"] for row in looked.rows)
    assert found["side_px"].quantile(0.5) == sides[len(sides) // 2 - 1]
    assert found["side_px"].quantile(1.0) == sides[-1]


@pytest.mark.parametrize("value", [320.0, 0.125, 0.0])
def test_a_score_that_is_the_same_everywhere(value):
    (found,) = measure(Columns([[value] * 3], []))
    assert found.is_constant
    assert found.quantile(0.5) == value
    assert found.kept_by_edge(found.counts).tolist() == [3, 0]


def test_bounds_that_keep_about_a_share():
    (found,) = measure(Columns([[float(n) for n in range(100)]], []))
    assert plots.thresholds(found, [0.9, 0.5]) == [(10.0, 90, 0.9), (50.0, 50, 0.5)]
    empty = Distribution("x", np.zeros(2), False, np.zeros(1, np.int64), {}, [])
    assert plots.thresholds(empty, [0.5]) == []
