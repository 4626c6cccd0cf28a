import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.evaluation import metrics


@given(st.integers(1, 2000), st.floats(0, 1))
def test_wilson_agrees_with_scipy_and_holds_the_share(num, share):
    successes = round(num * share)
    found = metrics.proportion(successes, num)
    expected = scipy.stats.binomtest(successes, num).proportion_ci(method="wilson")
    assert found.low95 == pytest.approx(expected.low, abs=1e-9)
    assert found.high95 == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= found.low95 <= found.value <= found.high95 <= 1


@pytest.mark.parametrize(("successes", "num"), [(0, 0), (3, 2), (-1, 5)])
def test_undefined_shares_are_refused(successes, num):
    with pytest.raises(DataError, match="not defined"):
        metrics.proportion(successes, num)


def test_intervals_of_means_cover_about_95_percent():
    rng = np.random.default_rng(0)
    for interval in (metrics.normal_mean, lambda v: metrics.bootstrap_mean(v, 1, 400)):
        runs = (interval(rng.exponential(size=60)) for _ in range(300))
        covered = np.mean([found.low95 <= 1.0 <= found.high95 for found in runs])
        assert 0.88 <= covered <= 0.98


def test_one_value_has_no_interval():
    for interval in (metrics.normal_mean, lambda v: metrics.bootstrap_mean(v, 0)):
        with pytest.raises(DataError, match="needs 2 values"):
            interval(np.array([1.0]))


def features(seed, num=200, dim=12, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num, dim)) @ rng.standard_normal((dim, dim)) + shift


def test_frechet_agrees_with_the_matrix_square_root_of_scipy():
    first, second = features(1), features(2, shift=0.7)
    a, b = metrics.moments([first]), metrics.moments([second])
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    shift = np.sum((a.mean - b.mean) ** 2)
    expected = shift + np.trace(a.covariance + b.covariance - 2 * np.real(root))
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_is_zero_with_itself_symmetric_and_a_squared_shift():
    a, b = metrics.moments([features(1)]), metrics.moments([features(1) + 2.0])
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(a, b) == pytest.approx(12 * 4.0, rel=1e-6)
    c = metrics.moments([features(3)])
    assert metrics.frechet_distance(a, c) == pytest.approx(metrics.frechet_distance(c, a))


def test_frechet_bears_fewer_samples_than_dimensions():
    value = metrics.frechet_distance(
        metrics.moments([features(1, num=5)]), metrics.moments([features(2, num=5)])
    )
    assert math.isfinite(value)
    assert value > 0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 9))
def test_moments_do_not_depend_on_the_batches(sizes, seed):
    rows = features(seed, num=sum(sizes) + 2, dim=4, shift=100.0)
    parts = np.split(rows, np.cumsum(sizes))
    found = metrics.moments(parts)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(rows.T), atol=1e-8)
    assert found.num == len(rows)


def test_moments_refuse_one_sample_and_other_dimensions():
    with pytest.raises(DataError, match="2 samples"):
        metrics.moments([features(0, num=1)])
    with pytest.raises(DataError, match="12 and 4 dimensions"):
        metrics.frechet_distance(
            metrics.moments([features(0)]), metrics.moments([features(0, dim=4)])
        )


def test_psnr_of_a_known_error():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    other = black.copy()
    other[0] += 16
    found = metrics.psnr(other, black)
    assert found[0] == pytest.approx(20 * math.log10(255 / 16))
    assert found[1] == pytest.approx(58.92, abs=0.01)  # only the rounding to bytes is left


def test_psnr_does_not_wrap_around_at_byte_borders():
    dark, bright = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert metrics.psnr(dark, bright)[0] == pytest.approx(0.0)


def test_ranks_of_a_permuted_gallery_by_hand():
    z_img = np.eye(4)
    z_txt = np.eye(4)[[0, 1, 3, 2]]
    assert metrics.retrieval_ranks(z_img, z_txt).tolist() == [1, 1, 4, 4]
    assert metrics.recall_at(metrics.retrieval_ranks(z_img, z_txt), 1).value == 0.5


def test_a_constant_embedding_retrieves_nothing():
    ranks = metrics.retrieval_ranks(np.ones((6, 3)), np.ones((6, 3)))
    assert (ranks == 6).all()


def test_embeddings_with_nan_are_refused():
    broken = np.eye(3)
    broken[1, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        metrics.retrieval_ranks(broken, np.eye(3))


def test_clip_scores_ignore_length_and_are_never_negative():
    z = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    other = np.array([[1.0, 0.0], [1.0, 0.0], [-5.0, 0.0]])
    np.testing.assert_allclose(metrics.clip_scores(z, other), [2.5, 0.0, 0.0])
    np.testing.assert_allclose(metrics.paired_cosines(z, other), [1.0, 0.0, -1.0])


def test_sharpness_of_one_bright_pixel_is_what_the_laplacian_says():
    flat = np.full((1, 5, 5, 3), 100, np.uint8)
    point = flat.copy()
    point[0, 2, 2] = 255
    step = (255 - 100) / 255
    assert metrics.sharpness(flat).tolist() == [0.0]
    # Of nine inner pixels the point itself says -4, its four neighbours 1.
    assert metrics.sharpness(point)[0] == pytest.approx((16 + 4) * step**2 / 9)
