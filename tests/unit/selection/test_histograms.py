"""The threshold of a top share is exact, whatever the parts and the ties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.selection import histograms

NUMBERS = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.25, 0.5, math.nan])


def histogram_of(parts):
    span = histograms.merge_extents(histograms.extent(part) for part in parts)
    counted = histograms.Histogram(span)
    for part in parts:
        counted.add(part)
    return counted.as_json()


@given(values=st.lists(NUMBERS, min_size=1), share=st.floats(0.001, 1), cut=st.integers(0, 20))
def test_the_threshold_keeps_the_wanted_rows_and_their_ties(values, share, cut):
    column = np.array(values, np.float32)
    parts = [column[:cut], column[cut:]]
    found = histograms.top_threshold(histogram_of(parts), share, lambda: parts)
    wanted = math.ceil(share * len(column) - 1e-9)
    ordered = np.sort(np.nan_to_num(column, nan=-np.inf))[::-1]
    expected = ordered[max(wanted, 1) - 1]
    assert found == expected
    assert np.count_nonzero(~(column < found)) >= wanted


def test_a_histogram_counts_every_number_once():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    values[:7] = np.nan
    found = histogram_of([values[:100], values[100:]])
    assert sum(found["counts"]) == 4993
    assert found["num_missing"] == 7
    assert (found["min"], found["max"]) == (np.nanmin(values), np.nanmax(values))
    assert len(found["counts"]) == histograms.NUM_BINS == 1000
    edges = np.linspace(found["min"], found["max"], 1001)
    expected = np.histogram(values[7:].astype(np.float64), edges)[0]
    assert np.abs(np.cumsum(expected) - np.cumsum(found["counts"])).max() <= 1


@pytest.mark.parametrize("values", [[], [math.nan], [2.0, 2.0]])
def test_columns_without_a_spread_have_histograms_too(values):
    column = np.array(values, np.float32)
    found = histogram_of([column])
    assert sum(found["counts"]) + found["num_missing"] == len(column)
    threshold = histograms.top_threshold(found, 0.5, lambda: [column])
    assert np.count_nonzero(~(column < threshold)) == len(column)
