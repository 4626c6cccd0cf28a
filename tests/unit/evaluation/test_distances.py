"""Distances against torchmetrics, scipy and their own definitions, on the same features."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from pipeline.errors import DataError
from pipeline.evaluation import distances, metrics


def features(seed, num=120, dim=16, shift=0.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((dim, dim))
    return (rng.standard_normal((num, dim)) @ mixing + shift).astype(dtype)


@pytest.mark.parametrize("num", [200, 12])  # more and fewer pictures than dimensions
def test_frechet_is_torchmetrics(num):
    made, real = features(1, num), features(2, num + 9, shift=0.5)
    stated = [
        torch.from_numpy(part)
        for rows in (made, real)
        for part in (rows.mean(axis=0, dtype=np.float64), np.cov(rows.astype(np.float64).T))
    ]
    found = distances.frechet(made, real, 0, num_resamples=0).estimate()
    assert found.value == pytest.approx(float(_compute_fid(*stated)), rel=1e-6)
    assert (found.low95, found.high95, found.num) == (found.value, found.value, num)


def test_kernel_distance_is_torchmetrics():
    made, real = features(1), features(2, shift=0.3)
    expected = poly_mmd(torch.from_numpy(real).double(), torch.from_numpy(made).double())
    found = distances.kernel_distance(made, real, 0)
    assert found.value == pytest.approx(float(expected), rel=1e-9)
    assert distances.kernel_distance(made, real, 0, subset=40).value != found.value


def test_cmmd_is_its_equation():
    made, real = features(1, 30), features(2, 25, shift=0.5)
    x, y = (metrics.normalised(rows).astype(np.float64) for rows in (made, real))

    def mean(a, b, *, of_others):
        gram = np.exp(-cdist(a, b, "sqeuclidean") / (2 * 10**2))
        return gram[~np.eye(len(a), dtype=bool)].mean() if of_others else gram.mean()

    terms = (
        mean(x, x, of_others=True) + mean(y, y, of_others=True) - 2 * mean(x, y, of_others=False)
    )
    assert distances.cmmd(made, real, 0).value == pytest.approx(1000 * terms, rel=1e-4)
    assert distances.cmmd(5 * made, real, 0).value == pytest.approx(1000 * terms, rel=1e-4)


@pytest.mark.parametrize("distance", [distances.kernel_distance, distances.cmmd])
def test_kernel_distances_do_not_depend_on_the_number_of_pictures(distance):
    few = [distance(features(n, 20), features(n + 500, 20), 0, 0).value for n in range(200)]
    assert abs(np.mean(few)) < 3 * np.std(few) / np.sqrt(len(few))


@pytest.mark.parametrize("block", [7, 2048])
def test_precision_and_recall_are_their_definition(monkeypatch, block):
    monkeypatch.setattr(distances, "BLOCK", block)
    made, real = features(1, 60, 4), features(2, 50, 4, shift=1.5)

    def share(rows, others, k=3):
        radii = np.sort(cdist(others, others), axis=1)[:, k]
        return (cdist(rows, others) <= radii).any(axis=1).mean()

    found = distances.precision_recall(made, real)
    assert 0 < found.precision.value < 1
    assert found.precision.value == pytest.approx(share(made, real))
    assert found.recall.value == pytest.approx(share(real, made))


def test_a_generator_with_one_picture_is_plausible_and_poor():
    real = features(2, 100, 4)
    made = np.repeat(real[:1], 20, axis=0) + 1e-3 * features(1, 20, 4)
    found = distances.precision_recall(made, real)
    assert found.precision.value == 1
    assert found.recall.value < 0.05


@pytest.mark.parametrize("distance", [distances.frechet, distances.kernel_distance])
def test_intervals_cover_the_distance_of_many_pictures(distance):
    def sets(seed, num):
        rng = np.random.default_rng(seed)
        return rng.standard_normal((num, 3)), rng.standard_normal((num, 3)) + 0.5

    truth = distance(*sets(0, 20_000), 0, 0).value
    runs = [distance(*sets(n, 150), n, 80).estimate() for n in range(1, 51)]
    covered = np.mean([found.low95 <= truth <= found.high95 for found in runs])
    assert covered >= 0.8


def test_pairs_tell_ways_apart_that_intervals_do_not():
    real, made = features(3, 150), features(4, 150, shift=0.2)
    other = made * 1.03
    first, second = (distances.frechet(rows, real, 0) for rows in (made, other))
    apart = second.minus(first)
    assert first.estimate().high95 > second.estimate().low95  # alone they overlap
    assert apart.low95 > 0
    assert apart.value == pytest.approx(second.value - first.value)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="this distance needs 4 of each"):
        distances.precision_recall(features(1, 3), features(2))
    broken = features(1)
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="NaN"):
        distances.kernel_distance(broken, features(2), 0)
