r"""Formulas of evaluation: proportions, means, distances and retrieval, each with its source.

Dimension names: ``picture`` (sample), ``dim`` (feature), ``side`` (pixels).

Every estimate carries its 95 % interval and its sample size, because a number without them invites
comparisons that it cannot bear.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from pipeline.errors import DataError

Z95 = 1.959963984540054
CLIP_SCORE_WEIGHT = 2.5
ROUNDING_ERROR = 1 / 12
"""Mean squared error of rounding to whole numbers."""


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval."""

    value: float
    low95: float
    high95: float
    num: int
    """Independent samples behind the value."""

    def as_dict(self) -> dict[str, float | int]:
        """The four numbers as JSON."""
        return asdict(self)


def proportion(successes: int, num: int) -> Estimate:
    r"""A share with Wilson's score interval.

    .. math:: \frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}

    Source: Wilson 1927; keeps its coverage near 0 and 1, where the normal interval fails.

    Args:
        successes: Number of hits, 0 to ``num``.
        num: Number of independent trials. Pictures chosen by the judge are not independent of it.

    Raises:
        DataError: No trials, or more hits than trials.
    """
    if num <= 0 or not 0 <= successes <= num:
        raise DataError(f"a share of {successes} out of {num} is not defined")
    share = successes / num
    spread = Z95 * math.sqrt(share * (1 - share) / num + Z95**2 / (4 * num**2))
    scale = 1 + Z95**2 / num
    centre = share + Z95**2 / (2 * num)
    # Rounding must not push a bound past 0, 1 or the share itself.
    low = min(max(0.0, (centre - spread) / scale), share)
    high = max(min(1.0, (centre + spread) / scale), share)
    return Estimate(share, low, high, num)


def normal_mean(values: Float[np.ndarray, " picture"]) -> Estimate:
    """A mean with ``± 1.96 s / √n``; for 30 or more values of bounded spread.

    Raises:
        DataError: Fewer than two values.
    """
    num = len(values)
    if num < 2:
        raise DataError(f"a mean with an interval needs 2 values, got {num}")
    mean = float(values.mean(dtype=np.float64))
    half = Z95 * float(values.std(dtype=np.float64, ddof=1)) / math.sqrt(num)
    return Estimate(mean, mean - half, mean + half, num)


def bootstrap_mean(
    values: Float[np.ndarray, " picture"], seed: int, num_resamples: int = 2000
) -> Estimate:
    """A mean with the percentile bootstrap interval (Efron 1979); for skewed values.

    Args:
        values: Independent values, at least two.
        seed: Seed of the resampling.
        num_resamples: Resamples; 2,000 give the bounds to about 1 % of their distance.
    """
    num = len(values)
    if num < 2:
        raise DataError(f"a mean with an interval needs 2 values, got {num}")
    draws = np.random.default_rng(seed).integers(0, num, size=(num_resamples, num))
    means = values.astype(np.float64)[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean(dtype=np.float64)), float(low), float(high), num)


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features: all that the Fréchet distance needs, whatever the count."""

    mean: Float[np.ndarray, " dim"]
    covariance: Float[np.ndarray, " dim dim"]
    num: int


def moments(batches: Iterable[Float[np.ndarray, " _ dim"]]) -> Moments:
    """Mean and unbiased covariance in one pass; memory does not grow with the number of pictures.

    Source: Chan, Golub and LeVeque 1983, pairwise update, in float64.

    Raises:
        DataError: Fewer than two samples in all.
    """
    num, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for batch in batches:
        rows = batch.astype(np.float64)
        if not len(rows):
            continue
        if num == 0:
            mean, scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
        shift = rows.mean(axis=0) - mean
        centred = rows - rows.mean(axis=0)
        total = num + len(rows)
        scatter += centred.T @ centred + np.outer(shift, shift) * (num * len(rows) / total)
        mean = mean + shift * (len(rows) / total)
        num = total
    if num < 2:
        raise DataError(f"a covariance needs 2 samples, got {num}")
    return Moments(mean, scatter / (num - 1), num)


def frechet_distance(first: Moments, second: Moments) -> float:
    r"""Squared Fréchet distance between two normal distributions.

    .. math:: \|\mu_1-\mu_2\|^2 + \mathrm{tr}\,(\Sigma_1 + \Sigma_2 - 2(\Sigma_1\Sigma_2)^{1/2})

    Source: Dowson and Landau 1982; Heusel et al. 2017, Eq. 6. The trace of the root is taken from
    the eigenvalues of the symmetric :math:`\Sigma_1^{1/2}\Sigma_2\Sigma_1^{1/2}`, which needs no
    complex arithmetic.

    The value depends on the features and falls with the number of pictures: compare only numbers
    with the same features and sample sizes, and put both in the metric's name.
    """
    if first.mean.shape != second.mean.shape:
        raise DataError(f"features of {first.mean.size} and {second.mean.size} dimensions")
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ second.covariance @ root)
    shift = float(np.sum((first.mean - second.mean) ** 2))
    traces = float(np.trace(first.covariance) + np.trace(second.covariance))
    return max(0.0, shift + traces - 2.0 * float(np.sqrt(np.clip(cross, 0.0, None)).sum()))


@dataclass(frozen=True)
class FrechetComparison:
    """Two ways to make the same pictures, by their Fréchet distances to the true ones."""

    first: Estimate
    second: Estimate
    gain: Estimate
    """The second's distance minus the first's; positive where the first is closer."""


def compared_frechet(
    first: Float[np.ndarray, " picture crop dim"],
    second: Float[np.ndarray, " picture crop dim"],
    real: Float[np.ndarray, " picture crop dim"],
    seed: int,
    num_resamples: int = 400,
) -> FrechetComparison:
    """Fréchet distances of two sets of pictures to the same real ones, with paired intervals.

    Percentile bootstrap (Efron 1979) over pictures, each with all its crops and in all three sets
    at once. A resample holds fewer distinct pictures, so that each distance's own interval lies
    somewhat high; in the gain this cancels.

    Args:
        first: Features of one way's pictures; row i belongs to row i of the others.
        second: Of another way's.
        real: Of the true pictures.
        seed: Seed of the resampling.
        num_resamples: Resamples.
    """
    num = len(real)
    sets = [rows.astype(np.float64) for rows in (first, second, real)]

    def distances(chosen: Int[np.ndarray, " picture"]) -> tuple[float, float]:
        a, b, c = (moments([rows[chosen].reshape(-1, rows.shape[-1])]) for rows in sets)
        return frechet_distance(a, c), frechet_distance(b, c)

    draws = np.random.default_rng(seed).integers(0, num, size=(num_resamples, num))
    resampled = np.array([distances(chosen) for chosen in draws])
    whole = np.array(distances(np.arange(num)))

    def estimate(value: float, rows: Float[np.ndarray, " resample"]) -> Estimate:
        low, high = np.percentile(rows, [2.5, 97.5])
        return Estimate(float(value), float(low), float(high), num)

    return FrechetComparison(
        estimate(whole[0], resampled[:, 0]),
        estimate(whole[1], resampled[:, 1]),
        estimate(whole[1] - whole[0], resampled[:, 1] - resampled[:, 0]),
    )


def psnr(
    pictures: UInt8[np.ndarray, " picture side side 3"],
    references: UInt8[np.ndarray, " picture side side 3"],
) -> Float[np.ndarray, " picture"]:
    r"""Peak signal-to-noise ratio of each picture in dB, :math:`10\log_{10}(255^2/\mathrm{MSE})`.

    The error is taken as at least that of rounding to bytes, 1/12, so that equal pictures give
    58.9 dB and not infinity. PSNR rewards blur; it shows that an upsampler keeps its input, not
    that its details look real.
    """
    errors = pictures.astype(np.float64) - references.astype(np.float64)
    mse = np.maximum((errors**2).mean(axis=(1, 2, 3)), ROUNDING_ERROR)
    return 10.0 * np.log10(255.0**2 / mse)


def sharpness(
    pictures: UInt8[np.ndarray, " picture side side 3"],
) -> Float[np.ndarray, " picture"]:
    r"""Mean squared Laplacian of each picture in [0, 1]: how much fine detail it has.

    .. math:: \overline{(x_{r+1,c} + x_{r-1,c} + x_{r,c+1} + x_{r,c-1} - 4 x_{r,c})^2}

    Noise counts as detail. Compare pictures of one side and one way of sampling alone.
    """
    x = pictures.astype(np.float64) / 255.0
    around = x[:, 2:, 1:-1] + x[:, :-2, 1:-1] + x[:, 1:-1, 2:] + x[:, 1:-1, :-2]
    return ((around - 4 * x[:, 1:-1, 1:-1]) ** 2).mean(axis=(1, 2, 3))


def normalised(z: Float[np.ndarray, " picture dim"]) -> Float[np.ndarray, " picture dim"]:
    """Rows scaled to length 1, in float32; zero rows stay zero."""
    rows = z.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def paired_cosines(
    first: Float[np.ndarray, " picture dim"], second: Float[np.ndarray, " picture dim"]
) -> Float[np.ndarray, " picture"]:
    """Cosine of each row of ``first`` with the same row of ``second``, in [-1, 1]."""
    return (normalised(first) * normalised(second)).sum(axis=1)


def clip_scores(
    z_img: Float[np.ndarray, " picture dim"], z_txt: Float[np.ndarray, " picture dim"]
) -> Float[np.ndarray, " picture"]:
    """CLIPScore ``2.5 · max(cos(z_img, z_txt), 0)`` (Hessel et al. 2021, Eq. 1).

    Only comparable between pictures scored by the same CLIP; a score by the CLIP that the generator
    was conditioned on flatters the generator.
    """
    return CLIP_SCORE_WEIGHT * np.maximum(paired_cosines(z_img, z_txt), 0.0)


def retrieval_ranks(
    queries: Float[np.ndarray, " picture dim"], gallery: Float[np.ndarray, " picture dim"]
) -> Int[np.ndarray, " picture"]:
    """Rank (1 is best) of gallery row i for query row i by cosine; ties count against it.

    Counting ties as misses keeps a constant embedding at the last rank instead of the first.
    """
    scores = normalised(queries) @ normalised(gallery).T
    if not np.isfinite(scores).all():  # NaN compares as false and would rank first
        raise DataError("embeddings of the retrieval gallery hold NaN or infinity")
    own = np.diagonal(scores)[:, None]
    better = (scores >= own).sum(axis=1)
    return better.astype(np.int64)


def recall_at(ranks: Int[np.ndarray, " picture"], k: int) -> Estimate:
    """Share of queries whose partner is among the first ``k``; chance is ``k / gallery``.

    Recall depends on the size of the gallery, which belongs in the metric's name.
    """
    return proportion(int((ranks <= k).sum()), len(ranks))
