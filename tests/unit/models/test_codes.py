import itertools

import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.models.codes import EmbeddingCodes, bucket_means, fit_codes, num_components
from pipeline.shards.z_statistics import principal_components

DIM, ROWS = 12, 4000


def rows(seed=0):
    """Embeddings whose variance falls fourfold from dimension to dimension, then turned."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(9).standard_normal((DIM, DIM)))
    scales = 2.0 ** -np.arange(DIM)
    return (3 + (rng.standard_normal((ROWS, DIM)) * scales) @ turn).astype(np.float32)


def fitted(max_error=0.01, num_buckets=64, dot_buckets=8):
    z_img = rows()
    pca = principal_components([z_img.astype(np.float16)], DIM)
    dots = np.random.default_rng(1).uniform(-1, 1, ROWS).astype(np.float32)
    sizes = {"num_buckets": num_buckets, "dot_buckets": dot_buckets}
    tables, error = fit_codes(pca, z_img, dots, max_error=max_error, **sizes)
    codes = EmbeddingCodes(DIM, len(tables["components"]), num_buckets, dot_buckets)
    codes.set_tables(tables)
    return codes, error


def test_as_many_components_are_kept_as_the_error_asks():
    variance = np.array([8.0, 4.0, 2.0, 1.0, 1.0], dtype=np.float32)
    assert [num_components(variance, e) for e in (0.5, 0.49, 0.25, 0.13, 0.01)] == [1, 2, 2, 3, 5]


def test_buckets_hold_equal_shares_and_components_come_by_falling_variance():
    codes, _ = fitted()
    found = codes.encode(torch.from_numpy(rows()))
    counts = torch.stack([torch.bincount(c, minlength=64) for c in found.T])
    assert counts.min() >= ROWS // 64 - 2
    assert counts.max() <= ROWS // 64 + 2
    assert (codes.centres.std(dim=1).diff() < 0).all()
    assert (codes.edges.diff(dim=1) >= 0).all()


def test_the_measured_error_is_that_of_coding_and_decoding():
    codes, error = fitted()
    z_img = torch.from_numpy(rows())
    back = codes.decode(codes.encode(z_img))
    measured = ((back - z_img) ** 2).sum() / ((z_img - z_img.mean(dim=0)) ** 2).sum()
    assert error == pytest.approx(measured.item(), rel=1e-3)
    assert error < 0.015


def test_more_buckets_lose_less():
    errors = [fitted(max_error=1e-4, num_buckets=n)[1] for n in (4, 16, 64, 256)]
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(errors))


def test_codes_of_centres_are_their_own_buckets():
    codes, _ = fitted(num_buckets=8)
    every = torch.arange(8)[:, None].expand(-1, codes.num_components)
    torch.testing.assert_close(codes.encode(codes.decode(every)), every)


def test_an_empty_bucket_stands_for_its_middle():
    means = bucket_means(np.array([0.0, 1.0]), np.array([0.5, 2.0, 4.0]))
    np.testing.assert_allclose(means, [0.0, 1.0, 3.0, 4.0])


def test_dot_products_are_drawn_from_their_upper_half():
    codes, _ = fitted()
    drawn = codes.upper_dot_code(torch.arange(400) / 400)
    assert torch.bincount(drawn, minlength=8).tolist() == [0] * 4 + [100] * 4
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[0.99, 0.14], [-1.0, 0.0]])
    assert codes.dot_code(z, other).tolist() == [7, 0]


def test_without_rows_there_are_no_codes():
    pca = {"variance": np.ones(2, np.float32)}
    with pytest.raises(DataError, match="no training sample"):
        fit_codes(
            pca, np.zeros((0, 2), np.float32), np.zeros(0, np.float32),
            max_error=0.1, num_buckets=2, dot_buckets=2,
        )  # fmt: skip
