"""Embeddings as sequences of codes: principal components in buckets of equal mass.

What the autoregressive prior predicts. Dimension names: ``row``; ``batch``; ``dim`` (joint
embedding); ``component`` (by falling variance); ``bucket``; ``edge`` (between two buckets).
Source: Ramesh et al. 2022 (unCLIP) §2.2: PCA, components in order of decreasing eigenvalue, each
quantised into 1,024 buckets. The paper names no edges; here a component's buckets hold equal shares
of the training rows and stand for their mean.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

from pipeline.errors import DataError

Arrays = dict[str, Float32[np.ndarray, " ..."]]


def num_components(variance: Float32[np.ndarray, " component"], max_error: float) -> int:
    """Leading components that leave out at most ``max_error`` of the whole variance.

    The paper keeps 319 of 1,024 for less than 1 % of squared error (§2.2).
    """
    total = variance.astype(np.float64)
    left_out = 1 - np.cumsum(total) / max(total.sum(), 1e-30)
    return int(np.argmax(left_out <= max_error + 1e-12)) + 1


def fit_codes(
    pca: Mapping[str, Float32[np.ndarray, " ..."]],
    z_img: Float32[np.ndarray, " row dim"],
    dots: Float32[np.ndarray, " pair"],
    *,
    max_error: float,
    num_buckets: int,
    dot_buckets: int,
) -> tuple[Arrays, float]:
    """Buckets of every kept component, and of the dot products.

    Args:
        pca: ``mean``, ``components`` and ``variance``, as the embed stage stores them.
        z_img: Raw embeddings of training samples.
        dots: Cosines of z_img and z_txt of training pairs.
        max_error: Share of the variance that the left-out components may hold.
        num_buckets: Codes per component.
        dot_buckets: Codes of the dot product.

    Returns:
        ``z_mean, components, edges, centres, dot_edges``, and the measured share of squared error
        that coding and decoding leave, against the embeddings' variance.

    Raises:
        DataError: There is no row.
    """
    if not len(z_img) or not len(dots):
        raise DataError("no training sample has an embedding: codes need some; look at select")
    kept = num_components(pca["variance"], max_error)
    components = pca["components"][:kept].astype(np.float64)
    centred = z_img.astype(np.float64) - pca["mean"]
    scores = centred @ components.T
    shares = np.arange(1, num_buckets) / num_buckets
    edges = np.quantile(scores, shares, axis=0).T
    columns = zip(scores.T, edges, strict=True)
    centres = np.stack([bucket_means(column, edge) for column, edge in columns])
    arrays = {
        "z_mean": pca["mean"],
        "components": components,
        "edges": edges,
        "centres": centres,
        "dot_edges": np.quantile(dots.astype(np.float64), np.arange(1, dot_buckets) / dot_buckets),
    }
    return (
        {name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()},
        _error(centred, scores, components, edges, centres),
    )


def bucket_means(
    values: Float64[np.ndarray, " row"], edges: Float64[np.ndarray, " edge"]
) -> Float64[np.ndarray, " bucket"]:
    """What each bucket stands for: the mean of its values, or where it has none, its middle."""
    bucket = np.searchsorted(edges, values)
    counts = np.bincount(bucket, minlength=len(edges) + 1)
    sums = np.bincount(bucket, weights=values, minlength=len(edges) + 1)
    bounds = np.concatenate([edges[:1], edges, edges[-1:]])
    middles = (bounds[:-1] + bounds[1:]) / 2
    return np.where(counts > 0, sums / np.maximum(counts, 1), middles)


def _error(
    centred: Float64[np.ndarray, " row dim"],
    scores: Float64[np.ndarray, " row component"],
    components: Float64[np.ndarray, " component dim"],
    edges: Float64[np.ndarray, " component edge"],
    centres: Float64[np.ndarray, " component bucket"],
) -> float:
    coded = np.stack(
        [c[np.searchsorted(e, s)] for s, e, c in zip(scores.T, edges, centres, strict=True)], axis=1
    )
    lost = ((centred - coded @ components) ** 2).sum()
    return float(lost / max((centred**2).sum(), 1e-30))


class EmbeddingCodes(nn.Module):
    """Raw embeddings ↔ codes; its tables are buffers of the prior's weights."""

    z_mean: Tensor
    components: Tensor
    edges: Tensor
    centres: Tensor
    dot_edges: Tensor

    def __init__(self, dim: int, num_components: int, num_buckets: int, dot_buckets: int) -> None:
        """Tables of these sizes; all zero until they are set or loaded."""
        super().__init__()
        self.num_components = num_components
        self.register_buffer("z_mean", torch.zeros(dim))
        self.register_buffer("components", torch.zeros(num_components, dim))
        self.register_buffer("edges", torch.zeros(num_components, num_buckets - 1))
        self.register_buffer("centres", torch.zeros(num_components, num_buckets))
        self.register_buffer("dot_edges", torch.zeros(dot_buckets - 1))

    def set_tables(self, arrays: Mapping[str, Float32[np.ndarray, " ..."]]) -> None:
        """Take over what ``fit_codes`` found."""
        for name, table in self.named_buffers():
            table.copy_(torch.from_numpy(arrays[name]))

    def encode(self, z_img: Float[Tensor, " batch dim"]) -> Int[Tensor, " batch component"]:
        """The bucket of every component, the largest component first."""
        scores = (z_img - self.z_mean) @ self.components.T
        return torch.searchsorted(self.edges, scores.T.contiguous()).T.contiguous()

    def decode(self, codes: Int[Tensor, " batch component"]) -> Float[Tensor, " batch dim"]:
        """Raw embeddings that the codes stand for."""
        scores = self.centres.gather(1, codes.T).T
        return self.z_mean + scores @ self.components

    def dot_code(
        self, z_img: Float[Tensor, " batch dim"], z_txt: Float[Tensor, " batch dim"]
    ) -> Int[Tensor, " batch"]:
        """Bucket of z_img · z_txt of the normalised embeddings."""
        dots = F.cosine_similarity(z_img, z_txt, dim=-1)
        return torch.searchsorted(self.dot_edges, dots.contiguous())

    def upper_dot_code(self, uniform: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """A draw from the upper half of the dot products' distribution (paper §2.2, footnote 2).

        Buckets are of equal mass, so the upper half of them, drawn evenly, is that half.

        Args:
            uniform: In [0, 1).
        """
        num_buckets = len(self.dot_edges) + 1
        half = num_buckets // 2
        return (half + (uniform * half).long()).clamp(max=num_buckets - 1)
