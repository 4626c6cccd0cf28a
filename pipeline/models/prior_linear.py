"""Linear prior: z_img as an affine function of z_txt, the baseline of every prior.

Dimension names: ``batch``; ``dim`` (joint embedding). Fitted in closed form, never by steps; as a
prior it draws nothing: one caption has one embedding.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from pipeline.models.config import LinearPriorConfig
from pipeline.models.layers import zero_init


class LinearPrior(nn.Module):
    """Raw text embeddings → raw image embeddings."""

    def __init__(self, config: LinearPriorConfig) -> None:
        """A prior that says zero until it is fitted or loaded."""
        super().__init__()
        dim = config.clip.embed_dim
        self.config = config
        self.linear = zero_init(nn.Linear(dim, dim))

    def forward(self, z_txt: Float[Tensor, " batch dim"]) -> Float[Tensor, " batch dim"]:
        """The expected z_img."""
        return self.linear(z_txt)

    @torch.no_grad()
    def set_solution(
        self, weight: Float64[Tensor, " dim dim"], bias: Float64[Tensor, " dim"]
    ) -> None:
        """Take over what ``RidgeSums.solve`` found."""
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)


class RidgeSums:
    """Sums over pairs that a ridge regression needs: of bounded size, whatever the data's."""

    def __init__(self, dim: int) -> None:
        """No pair yet."""
        self.weight = 0.0
        self._x = torch.zeros(dim, dtype=torch.float64)
        self._y = torch.zeros(dim, dtype=torch.float64)
        self._xx = torch.zeros(dim, dim, dtype=torch.float64)
        self._xy = torch.zeros(dim, dim, dtype=torch.float64)

    def add(
        self,
        z_txt: Float64[Tensor, " pair dim"],
        z_img: Float64[Tensor, " pair dim"],
        weights: Float64[Tensor, " pair"],
    ) -> None:
        """Add pairs, each with its weight."""
        weighted = z_txt * weights[:, None]
        self.weight += float(weights.sum())
        self._x += weighted.sum(dim=0)
        self._y += (z_img * weights[:, None]).sum(dim=0)
        self._xx += weighted.T @ z_txt
        self._xy += weighted.T @ z_img

    def solve(self, ridge: float) -> tuple[Float64[Tensor, " dim dim"], Float64[Tensor, " dim"]]:
        r"""Weights and bias of the regression.

        .. math:: W^T = (\Sigma_{xx} + \lambda \tfrac{\mathrm{tr}\,\Sigma_{xx}}{d} I)^{-1}
                  \Sigma_{xy}

        with centred second moments. Source: Hoerl & Kennard 1970, Eq. 2.1; the penalty is in mean
        variances of a dimension, so that it means the same for every CLIP.
        """
        mean_x, mean_y = self._x / self.weight, self._y / self.weight
        covariance = self._xx / self.weight - torch.outer(mean_x, mean_x)
        cross = self._xy / self.weight - torch.outer(mean_x, mean_y)
        dim = len(mean_x)
        # The floor keeps a dimension that never varies from making the system singular.
        penalty = max(ridge, 1e-10) * max(float(covariance.trace()) / dim, 1e-30)
        identity = torch.eye(dim, dtype=torch.float64)
        solved = torch.linalg.solve(covariance + penalty * identity, cross)
        return solved.T, mean_y - mean_x @ solved
