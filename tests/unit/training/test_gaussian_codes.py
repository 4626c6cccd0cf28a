"""The yardstick of codes, where everything about it is known."""

import math

import numpy as np
import pytest
import torch

from pipeline.models.codes import EmbeddingCodes, fit_codes
from pipeline.shards.z_statistics import principal_components
from pipeline.training.codes import coding_errors
from pipeline.training.gaussian_codes import gaussian_nats

DIM, BUCKETS = 4, 32


def pairs(seed, num, share):
    """z_img = a mixture of z_txt and noise: per component ``share`` of its variance is said."""
    rng = np.random.default_rng(seed)
    z_txt = rng.standard_normal((num, DIM))
    z_img = share**0.5 * z_txt + (1 - share) ** 0.5 * rng.standard_normal((num, DIM))
    z_img = z_img * [4, 3, 2, 1]
    return tuple(torch.from_numpy(rows.astype(np.float32)) for rows in (z_txt, z_img))


def tables(z_img, max_error=0.001):
    pca = principal_components([z_img.numpy().astype(np.float16)], DIM)
    dots = np.zeros(len(z_img), np.float32)
    sizes = {"num_buckets": BUCKETS, "dot_buckets": 2}
    found, _ = fit_codes(pca, z_img.numpy(), dots, max_error=max_error, **sizes)
    codes = EmbeddingCodes(DIM, len(found["components"]), BUCKETS, 2)
    codes.set_tables(found)
    return codes, pca["variance"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_what_a_caption_says_of_a_gaussian_is_known_in_nats(share):
    train, held_out = pairs(0, 20_000, share), pairs(1, 4000, share)
    codes, _ = tables(train[1])
    found = gaussian_nats(codes, train, held_out)
    # Mutual information of jointly normal values; fine buckets lose little of it.
    expected = math.log(BUCKETS) + 0.5 * math.log(1 - share)
    assert found.mean() == pytest.approx(expected, abs=0.06)


def test_components_before_a_code_tell_of_it_too():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 20_000, 1))
    z_img = np.concatenate([first, first + 0.1 * second, 0 * first, 0 * first], axis=1)
    z_txt, z_img = (
        torch.from_numpy(rows.astype(np.float32))
        for rows in (rng.standard_normal((20_000, DIM)), z_img)
    )
    codes = EmbeddingCodes(DIM, 2, BUCKETS, 2)
    codes.components.copy_(torch.eye(2, DIM))
    shares = torch.arange(1, BUCKETS) / BUCKETS
    codes.edges.copy_(torch.quantile(z_img[:, :2], shares, dim=0).T)
    found = gaussian_nats(codes, (z_txt, z_img), (z_txt, z_img)).mean()
    # Of the two codes one is as good as unknown; the other lies within a few buckets of it.
    assert math.log(BUCKETS) / 2 + 0.5 < found < math.log(BUCKETS) - 0.7


def test_coding_costs_more_than_leaving_out_and_less_with_more_components():
    _, z_img = pairs(0, 5000, 0.5)
    means = {}
    for max_error in (0.2, 0.001):
        codes, variance = tables(z_img, max_error)
        errors = coding_errors(codes, variance, z_img)
        means[max_error] = {name: np.mean(rows) for name, rows in errors.items()}
        assert means[max_error]["left_out"] <= max_error + 1e-3
        assert means[max_error]["left_out"] < means[max_error]["coded"]
    assert means[0.001]["coded"] < 0.02 < means[0.2]["coded"]
