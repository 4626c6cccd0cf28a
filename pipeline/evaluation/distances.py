r"""How far two sets of pictures lie apart by their features: Fréchet, kernels, precision, recall.

Dimension names: ``made`` and ``real`` (pictures of either set), ``dim`` (feature), ``resample``.

Every distance comes with resamples. Those of two calls with equal seeds and sizes draw the same
pictures, so that ways to make the same pictures are compared in pairs (``Resampled.minus``).
Memory does not grow with the product of the sets' sizes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pipeline import draws
from pipeline.errors import DataError
from pipeline.evaluation.metrics import (
    Estimate,
    frechet_distance,
    moments,
    normalised,
    proportion,
)

SUBSET = 1000
"""Pictures of a kernel's subset (Bińkowski et al. 2018 use 1,000)."""
NUM_NEAREST = 3
"""Neighbours that bound a picture's surroundings (Kynkäänniemi et al. 2019 use 3)."""
BLOCK = 2048
CMMD_BANDWIDTH, CMMD_SCALE = 10.0, 1000.0

Made = Float[np.ndarray, " made dim"]
Real = Float[np.ndarray, " real dim"]
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Rows of two sets → a value per pair."""


@dataclass(frozen=True)
class Resampled:
    """A value and what it is on resampled pictures."""

    value: float
    resamples: Float[np.ndarray, " resample"]
    """None at all where no interval was asked for."""
    num: int
    """Pictures of the smaller set."""

    def estimate(self) -> Estimate:
        """With the percentile interval (Efron 1979), moved so that its mean is the value.

        A resample holds fewer distinct pictures than the sets do, which moves a Fréchet distance
        up; its spread is what counts.
        """
        if not len(self.resamples):
            return Estimate(self.value, self.value, self.value, self.num)
        spread = self.resamples - self.resamples.mean()
        low, high = np.percentile(spread, [2.5, 97.5])
        return Estimate(self.value, self.value + float(low), self.value + float(high), self.num)

    def minus(self, other: "Resampled") -> Estimate:
        """The paired difference of two distances to the same real pictures."""
        resamples = self.resamples - other.resamples
        return Resampled(self.value - other.value, resamples, min(self.num, other.num)).estimate()


def frechet(made: Made, real: Real, seed: int, num_resamples: int = 200) -> Resampled:
    """Squared Fréchet distance (``metrics.frechet_distance``) with resamples of both sets.

    Args:
        made: Features of generated pictures.
        real: Of real ones.
        seed: Seed of the resampling.
        num_resamples: Resamples; each takes as long as the distance itself. 0 gives no interval.

    Raises:
        DataError: Fewer than two pictures, or features that are not finite.
    """
    _check(made, real)
    rows = [each.astype(np.float64) for each in (made, real)]
    resamples = []
    for number in range(num_resamples):
        chosen = [
            each[draws.generator(seed, f"frechet/{side}", number).integers(0, len(each), len(each))]
            for side, each in enumerate(rows)
        ]
        resamples.append(_frechet(*chosen))
    return Resampled(_frechet(*rows), np.array(resamples), min(len(made), len(real)))


def _frechet(made: Made, real: Real) -> float:
    r"""With fewer pictures than dimensions, from singular values of one small matrix.

    .. math:: \mathrm{tr}(\Sigma_1\Sigma_2)^{1/2} = \|X_1 X_2^\top\|_* / \sqrt{(n_1-1)(n_2-1)}

    for centred rows X: both sides sum the singular values of the product of the covariances' roots.
    """
    if min(len(made), len(real)) > made.shape[1]:
        return frechet_distance(moments([made]), moments([real]))
    means = made.mean(axis=0), real.mean(axis=0)
    first, second = made - means[0], real - means[1]
    sizes = len(made) - 1, len(real) - 1
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum() / np.sqrt(sizes[0] * sizes[1])
    traces = (first**2).sum() / sizes[0] + (second**2).sum() / sizes[1]
    return max(0.0, float(((means[0] - means[1]) ** 2).sum() + traces - 2 * cross))


def kernel_distance(
    made: Made, real: Real, seed: int, num_resamples: int = 400, subset: int = SUBSET
) -> Resampled:
    r"""Squared maximum mean discrepancy with :math:`k(x, y) = (x^\top y/d + 1)^3`, unbiased.

    The mean over disjoint subsets, which memory and time depend on; unlike the Fréchet distance it
    does not fall with the number of pictures. Source: Bińkowski et al. 2018 (KID), §4, who draw
    subsets with replacement.

    Args:
        made: Features of generated pictures.
        real: Of real ones.
        seed: Seed of the subsets and of the resampling (Poisson weights per picture).
        num_resamples: Resamples; 0 gives no interval.
        subset: Pictures of the larger set per subset, about.
    """
    dim = made.shape[1]
    return _mmd(made, real, lambda a, b: (a @ b.T / dim + 1) ** 3, seed, num_resamples, subset)


def cmmd(
    made: Made, real: Real, seed: int, num_resamples: int = 400, subset: int = SUBSET
) -> Resampled:
    r"""CLIP's maximum mean discrepancy, times 1,000: a Gaussian kernel (σ 10) on unit vectors.

    Source: Jayasumana et al. 2024 (Rethinking FID), Eq. 4, unbiased. Their code counts every
    picture as its own pair as well, which adds up to 20/n (0.08 for 256 pictures, nothing that
    shows for 30,000).

    Args:
        made: CLIP's embeddings of generated pictures, of any length.
        real: Of real ones.
        seed: As for ``kernel_distance``.
        num_resamples: Resamples; 0 gives no interval.
        subset: As for ``kernel_distance``.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp((a @ b.T - 1) / CMMD_BANDWIDTH**2)  # |a - b|² = 2 - 2 a·b

    found = _mmd(normalised(made), normalised(real), kernel, seed, num_resamples, subset)
    return Resampled(CMMD_SCALE * found.value, CMMD_SCALE * found.resamples, found.num)


def _mmd(
    made: Made, real: Real, kernel: Kernel, seed: int, num_resamples: int, subset: int
) -> Resampled:
    _check(made, real)
    sizes = len(made), len(real)
    num_subsets = max(1, min(max(sizes) // subset, min(sizes) // 2))
    rngs = [draws.generator(seed, "mmd", side) for side in range(2)]
    parts = [
        np.array_split(rng.permutation(size), num_subsets)
        for rng, size in zip(rngs, sizes, strict=True)
    ]
    total = np.zeros(1 + num_resamples)
    for chosen in zip(*parts, strict=True):
        x, y = (rows[c].astype(np.float64) for rows, c in zip((made, real), chosen, strict=True))
        # The first row of weights counts every picture once: the value itself.
        a, b = (
            np.vstack([np.ones(len(c)), rng.poisson(1.0, (num_resamples, len(c)))])
            for rng, c in zip(rngs, chosen, strict=True)
        )
        crossed = ((a @ kernel(x, y)) * b).sum(axis=1)
        pairs = np.maximum(a.sum(axis=1) * b.sum(axis=1), 1)
        total += _within(kernel(x, x), a) + _within(kernel(y, y), b) - 2 * crossed / pairs
    total /= num_subsets
    return Resampled(float(total[0]), total[1:], min(sizes))


def _within(
    gram: Float[np.ndarray, " picture picture"], weights: Float[np.ndarray, " resample picture"]
) -> Float[np.ndarray, " resample"]:
    """Weighted mean of the kernel over pairs of different pictures."""
    squares = weights**2
    sums = ((weights @ gram) * weights).sum(axis=1) - squares @ np.diagonal(gram)
    return sums / np.maximum(weights.sum(axis=1) ** 2 - squares.sum(axis=1), 1)


@dataclass(frozen=True)
class PrecisionRecall:
    """How much of each set lies where the other one does."""

    precision: Estimate
    """Share of generated pictures among the real ones' surroundings: are they plausible?"""
    recall: Estimate
    """Share of real pictures among the generated ones' surroundings: is everything drawn?"""


def precision_recall(made: Made, real: Real, num_nearest: int = NUM_NEAREST) -> PrecisionRecall:
    """Improved precision and recall, block by block.

    A picture's surroundings are a ball that reaches to its third nearest neighbour of its own set.
    Both shares grow with the number of pictures. Wilson's intervals, of the pictures that are
    asked: the surroundings are taken as they are. Source: Kynkäänniemi et al. 2019, Eq. 1–2.

    Raises:
        DataError: Not more pictures than neighbours, or features that are not finite.
    """
    _check(made, real, num_nearest + 1)
    middle = real.mean(axis=0, dtype=np.float64)  # smaller numbers, smaller rounding
    a, b = ((rows - middle).astype(np.float32) for rows in (made, real))
    inside = [_inside(a, b, _radii(b, num_nearest)), _inside(b, a, _radii(a, num_nearest))]
    return PrecisionRecall(*(proportion(int(each.sum()), len(each)) for each in inside))


def _radii(rows: Made, num_nearest: int) -> Float[np.ndarray, " made"]:
    """Squared distance of each row to its nearest other rows' last."""
    found = [
        np.partition(squared, num_nearest, axis=1)[:, num_nearest]  # place 0 is the row itself
        for squared in _squared_distances(rows, rows)
    ]
    return np.concatenate(found)


def _inside(
    rows: Made, others: Real, radii: Float[np.ndarray, " real"]
) -> Bool[np.ndarray, " made"]:
    """Whether each row lies within the radius of some other row."""
    return np.concatenate([(d <= radii).any(axis=1) for d in _squared_distances(rows, others)])


def _squared_distances(rows: Made, others: Real) -> Iterator[Float[np.ndarray, " block real"]]:
    lengths = (others**2).sum(axis=1)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        squared = (part**2).sum(axis=1)[:, None] + lengths - 2 * part @ others.T
        yield np.maximum(squared, 0)


def _check(made: Made, real: Real, least: int = 2) -> None:
    if min(len(made), len(real)) < least:
        raise DataError(
            f"{len(made)} generated and {len(real)} real pictures: this distance needs {least} of "
            "each; raise num_samples or num_pictures"
        )
    if not (np.isfinite(made).all() and np.isfinite(real).all()):
        raise DataError("features hold NaN or infinity: the pictures or the network are damaged")
