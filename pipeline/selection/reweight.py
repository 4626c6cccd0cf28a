r"""Weights against filter bias: kept samples count as often as their like did before filtering.

A logistic regression on standardised embeddings of length one tells samples of the whole data set
(label 1) from kept ones (label 0), equally many of either in weight, so that its odds estimate the
ratio of the two densities:

.. math:: w(x) = \frac{P(\text{all} \mid x)}{P(\text{kept} \mid x)} = e^{\beta^\top x + b}

Source: Nichol et al. 2022, "DALL·E 2 pre-training mitigations"; the fit by Newton's method with a
ridge (Bishop 2006, Eq. 4.92). Both sides are drawn by hash, so shards and order mean nothing.
Dimension names: ``row``, ``dim``.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.special import expit

from pipeline.curation.exchange import read_ahead
from pipeline.errors import DataError
from pipeline.selection import clustering
from pipeline.selection.columns import Columns
from pipeline.selection.numbers import key_hashes
from pipeline.shards.embedding_files import EmbeddedDataset, unit
from pipeline.shards.select_config import ReweightConfig

ALL, KEPT = "reweight all", "reweight kept"


@dataclass(frozen=True)
class Classifier:
    """A fitted regression."""

    mean: Float32[np.ndarray, " dim"]
    scale: Float32[np.ndarray, " dim"]
    coefficients: Float64[np.ndarray, " coefficient"]
    """Of the standardised dimensions and, last, the constant."""

    def log_odds(self, rows: Float32[np.ndarray, " row dim"]) -> Float64[np.ndarray, " row"]:
        """Of being drawn from all rather than from the kept ones."""
        return _with_constant((rows - self.mean) / self.scale) @ self.coefficients


def weights(
    columns: Columns,
    embedded: EmbeddedDataset,
    kept: Bool[np.ndarray, " row"],
    config: ReweightConfig,
) -> Float32[np.ndarray, " row"]:
    """The weight of every kept sample, with mean 1; 0 of the others.

    Args:
        columns: The scores.
        embedded: Embeddings of the same data set.
        kept: What the profile keeps.
        config: How to fit, and where to clip.

    Raises:
        DataError: Nothing is kept.
    """
    if not kept.any():
        raise DataError("reweight: the profile keeps no sample; loosen its bounds")
    everything = np.ones(len(kept), bool)
    classifier = fit(
        _sample(columns, embedded, everything, ALL, config),
        _sample(columns, embedded, kept, KEPT, config),
        config,
    )
    found = np.zeros(len(kept), np.float64)
    bound = np.log(config.max_odds)

    def odds(shard: int) -> Float64[np.ndarray, " row"]:
        rows = unit(embedded.z_img(shard))
        return np.exp(np.clip(classifier.log_odds(rows), -bound, bound))

    for shard, part in enumerate(read_ahead(odds, _shards(columns))):
        found[columns.first_rows[shard] : columns.first_rows[shard + 1]] = part
    found[~kept] = 0
    return (found / found[kept].mean()).astype(np.float32)


def fit(
    everything: Float32[np.ndarray, " all dim"],
    kept: Float32[np.ndarray, " kept dim"],
    config: ReweightConfig,
) -> Classifier:
    """Tell one sample from the other.

    Args:
        everything: Embeddings of length one, drawn from the whole data set.
        kept: Likewise of what was kept.
        config: Newton steps and ridge.
    """
    mean = everything.mean(axis=0)
    scale = np.maximum(everything.std(axis=0), np.float32(1e-6))
    x = _with_constant((np.concatenate([everything, kept]) - mean) / scale)
    label = np.concatenate([np.ones(len(everything)), np.zeros(len(kept))])
    # Both sides weigh the same, whatever their numbers.
    share = np.where(label == 1, len(kept), len(everything)) * 2 / len(label)
    penalty = np.full(x.shape[1], config.ridge)
    penalty[-1] = 1e-6
    coefficients = np.zeros(x.shape[1])
    for _ in range(config.iterations):
        probability = expit(x @ coefficients)
        gradient = x.T @ (share * (probability - label)) + penalty * coefficients
        curvature = (x * (share * probability * (1 - probability))[:, None]).T @ x
        coefficients -= np.linalg.solve(curvature + np.diag(penalty), gradient)
    return Classifier(mean, scale, coefficients)


def _sample(
    columns: Columns,
    embedded: EmbeddedDataset,
    chosen: Bool[np.ndarray, " row"],
    purpose: str,
    config: ReweightConfig,
) -> Float32[np.ndarray, " drawn dim"]:
    """Embeddings of the chosen rows of lowest hash, in that order."""
    wanted = config.sample_rows
    parts = []
    for span, table in columns.read(["key"]):
        hashes = key_hashes(table["key"], purpose, config.seed)
        drawn = clustering.in_sample(hashes, int(np.count_nonzero(chosen)), wanted)
        rows = np.flatnonzero(drawn & chosen[span.rows])
        parts.append((hashes[rows], rows + span.rows.start))
    hashes, rows = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    order = np.argsort(hashes, kind="stable")[:wanted]
    place = np.empty(len(order), np.int64)
    by_row = np.argsort(rows[order], kind="stable")
    place[by_row] = np.arange(len(order))
    rows = rows[order][by_row]

    def read(shard: int) -> Float32[np.ndarray, " row dim"]:
        bounds = columns.first_rows[shard : shard + 2]
        first, after = np.searchsorted(rows, bounds)
        if first == after:
            return np.empty((0, embedded.dim), np.float32)
        return unit(embedded.z_img(shard)[rows[first:after] - bounds[0]])

    return np.concatenate([*read_ahead(read, _shards(columns))])[place]


def _shards(columns: Columns) -> range:
    return range(len(columns.first_rows) - 1)


def _with_constant(x: np.ndarray) -> Float64[np.ndarray, " row coefficient"]:
    return np.concatenate([x.astype(np.float64), np.ones((len(x), 1))], axis=1)
