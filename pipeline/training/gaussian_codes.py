"""How well a linear Gaussian predicts codes: the yardstick of an autoregressive prior's loss.

Components are regressed on z_txt, what is left is one normal distribution, and each code's
probability is that of its bucket, given z_txt and the components before it. Dimension names:
``row``, ``held_out`` (pairs); ``dim`` (joint embedding); ``component``.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from pipeline.models.codes import EmbeddingCodes
from pipeline.models.prior_linear import RidgeSums

Rows = Float[Tensor, " row dim"]
HeldOut = Float[Tensor, " held_out dim"]
RIDGE = 1e-3
UNIFORM_SHARE = 0.01
"""Of the uniform distribution in the mixture, without which one outlier would cost all."""


def gaussian_nats(
    codes: EmbeddingCodes, train: tuple[Rows, Rows], held_out: tuple[HeldOut, HeldOut]
) -> Float[np.ndarray, " held_out"]:
    r"""Mean over the codes of their cross-entropy, nats, for each held-out pair.

    .. math:: s_k \mid s_{<k}, z_t \sim N\big((W z_t)_k + \textstyle\sum_{j<k} L_{kj} e_j,\;
              L_{kk}^2\big), \quad e = L^{-1} (s - W z_t)

    with the residuals' covariance :math:`L L^T`: the chain rule of a normal distribution.

    Args:
        codes: The tables.
        train: z_txt and z_img of training pairs.
        held_out: z_txt and z_img of held-out pairs.
    """
    sums = RidgeSums(len(codes.z_mean))
    sums.add(train[0].double(), train[1].double(), torch.ones(len(train[0]), dtype=torch.float64))
    weight, bias = sums.solve(RIDGE)

    def predicted(z_txt: Rows) -> Float[np.ndarray, " row component"]:
        return _scores(codes, (z_txt.double() @ weight.T + bias).float())

    left = _scores(codes, train[1]) - predicted(train[0])
    lower = np.linalg.cholesky(np.cov(left.T, bias=True) + 1e-9 * np.eye(left.shape[1]))
    z_txt, z_img = held_out
    mean, scores = predicted(z_txt), _scores(codes, z_img)
    noise = np.linalg.solve(lower, (scores - mean).T).T
    spread = np.diagonal(lower)
    mean = scores - noise * spread
    edges = codes.edges.double().numpy()
    outer = np.full((len(edges), 1), np.inf)
    bounds = np.concatenate([-outer, edges, outer], axis=1)
    found = codes.encode(z_img).numpy()
    component = np.arange(len(edges))
    low, high = bounds[component, found], bounds[component, found + 1]
    inside = norm.cdf((high - mean) / spread) - norm.cdf((low - mean) / spread)
    share = UNIFORM_SHARE / (edges.shape[1] + 1)
    return -np.log((1 - UNIFORM_SHARE) * inside + share).mean(axis=1)


def _scores(codes: EmbeddingCodes, z_img: Rows) -> Float[np.ndarray, " row component"]:
    return ((z_img - codes.z_mean) @ codes.components.T).double().numpy()
