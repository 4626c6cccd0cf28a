r"""Ways between embeddings, and between noises.

Embeddings are raw in this project, while the paper's lie on the unit sphere. So directions are
turned as the paper does, and lengths go their own way: from one picture's to the other's between
pictures, the picture's own where a text gives a direction. Dimension names: ``batch``; ``*event``
(``dim`` of an embedding, ``channel height width`` of noise); ``component``.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.gaussian import spread


def slerp(
    first: Float[Tensor, " batch *event"], second: Float[Tensor, " batch *event"], theta: float
) -> Float[Tensor, " batch *event"]:
    r"""Turn from one vector towards another along the great circle; lengths change linearly.

    .. math:: \frac{z_\theta}{|z_\theta|} = \frac{\sin((1-\theta)\Omega)}{\sin\Omega}
              \frac{z_1}{|z_1|} + \frac{\sin(\theta\Omega)}{\sin\Omega}\frac{z_2}{|z_2|},
              \quad |z_\theta| = (1-\theta)|z_1| + \theta|z_2|

    with :math:`\cos\Omega` the cosine of the two. Source: Shoemake 1985, as in the paper §3.2; the
    lengths are ours. Vectors (nearly) in one line have no great circle and are mixed linearly.

    Args:
        first: Where theta is 0; returned exactly there.
        second: Where theta is 1; returned exactly there.
        theta: Share of the way, 0 to 1.
    """
    rows_1, rows_2 = first.flatten(1).double(), second.flatten(1).double()
    norm_1, norm_2 = rows_1.norm(dim=1), rows_2.norm(dim=1)
    cosine = functional.cosine_similarity(rows_1, rows_2, dim=1).clamp(-1, 1)
    omega = cosine.acos()
    in_line = omega.sin() < 1e-6
    sine = torch.where(in_line, torch.ones_like(omega), omega.sin())
    weight_1 = torch.where(in_line, 1 - theta, ((1 - theta) * omega).sin() / sine)
    weight_2 = torch.where(in_line, theta, (theta * omega).sin() / sine)
    length = (1 - theta) * norm_1 + theta * norm_2
    # A vector of length 0 has no direction; it adds nothing.
    scale_1, scale_2 = (
        weight * length / norm.clamp(min=1e-12)
        for weight, norm in ((weight_1, norm_1), (weight_2, norm_2))
    )
    turned = spread(scale_1, first) * first + spread(scale_2, second) * second
    return first if theta == 0 else second if theta == 1 else turned


def towards_text(
    z_img: Float[Tensor, " batch dim"],
    z_txt: Float[Tensor, " batch dim"],
    base_z_txt: Float[Tensor, " batch dim"],
    theta: float,
) -> Float[Tensor, " batch dim"]:
    r"""Turn a picture's embedding by the difference of two captions.

    .. math:: z_\theta = \mathrm{slerp}(z_i, z_d, \theta), \quad
              z_d = \mathrm{norm}(z_t - z_{t_0})

    with captions' embeddings of length 1, and z_d as long as z_i. Source: paper §3.3.

    Args:
        z_img: Raw embeddings of pictures.
        z_txt: Of the captions of what they shall become; any length.
        base_z_txt: Of the captions of what they are.
        theta: Share of the way; the paper goes to 0.25 to 0.50.
    """
    difference = functional.normalize(z_txt, dim=-1) - functional.normalize(base_z_txt, dim=-1)
    direction = functional.normalize(difference, dim=-1)
    return slerp(z_img, direction * z_img.norm(dim=-1, keepdim=True), theta)


def on_components(
    z_img: Float[Tensor, " batch dim"],
    mean: Float[Tensor, " dim"],
    components: Float[Tensor, " component dim"],
    num: int,
) -> Float[Tensor, " batch dim"]:
    r"""What the first principal components keep of embeddings.

    .. math:: z_k = \mu + P_k^\top P_k\,(z - \mu)

    Source: paper §4.

    Args:
        z_img: Raw embeddings.
        mean: Of the data's raw embeddings.
        components: P, orthonormal rows, largest variance first.
        num: k, at least 1.
    """
    kept = components[:num]
    return mean + (z_img - mean) @ kept.T @ kept
