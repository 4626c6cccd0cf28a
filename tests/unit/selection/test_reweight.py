"""Weights undo a planted bias of a filter."""

import numpy as np
import pytest

from pipeline.selection.reweight import fit
from pipeline.shards.embedding_files import unit
from pipeline.shards.select_config import ReweightConfig

CONFIG = ReweightConfig(seed=1)


def two_kinds(num, share, seed):
    """Rows of two kinds, and which are of the second."""
    rng = np.random.default_rng(seed)
    second = rng.random(num) < share
    centres = np.eye(16)[:2] * 3
    rows = centres[second.astype(int)] + rng.normal(size=(num, 16))
    return unit(rows.astype(np.float16)), second


def test_a_filter_that_drops_most_of_one_kind_is_mostly_undone():
    everything, _ = two_kinds(6000, 0.5, 1)
    kept, second = two_kinds(6000, 0.2, 2)
    odds = np.exp(fit(everything, kept, CONFIG).log_odds(kept))
    weights = odds / odds.mean()
    share = weights[second].sum() / weights.sum()
    assert second.mean() == pytest.approx(0.2, abs=0.02)
    assert 0.42 < share < 0.52  # of 0.5 before the filter


def test_sides_of_different_length_weigh_the_same():
    everything, _ = two_kinds(5000, 0.5, 1)
    kept, _ = two_kinds(500, 0.5, 2)
    assert fit(everything, kept, CONFIG).log_odds(kept).mean() == pytest.approx(0, abs=0.1)


def test_more_iterations_change_nothing_once_it_is_fitted():
    everything, kept = two_kinds(2000, 0.5, 1)[0], two_kinds(2000, 0.3, 2)[0]
    few = fit(everything, kept, CONFIG.model_copy(update={"iterations": 12}))
    many = fit(everything, kept, CONFIG.model_copy(update={"iterations": 40}))
    np.testing.assert_allclose(few.coefficients, many.coefficients, atol=1e-8)
