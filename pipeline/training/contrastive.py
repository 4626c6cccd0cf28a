"""CLIP's loss over the global batch, in local blocks: no worker holds the square of it.

Dimension names: ``batch`` (this worker's rows); ``global`` (rows of all workers); ``dim``.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

LossKind = Literal["softmax", "explicit_negatives"]


class _GatherRows(torch.autograd.Function):
    """All workers' rows, in rank order; backward sums what every worker asks of ours."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:  # noqa: ANN401 - autograd's
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        ctx.start = sum(counts[: dist.get_rank()])
        ctx.length = len(rows)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - autograd's
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.length], None


def contrastive_loss(
    z_img: Float[Tensor, " batch dim"],
    z_txt: Float[Tensor, " batch dim"],
    scale: Float[Tensor, ""],
    kind: LossKind = "softmax",
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The contrastive loss of this worker's rows against the gathered batch, both directions.

    The sum over all workers' rows, divided by the global batch, is for ``softmax`` the symmetric
    cross-entropy of Radford et al. 2021, Fig. 3; summed gradients are its gradients. Every worker
    must call it once per step with at least one row. Workers may hold different numbers of rows.

    Args:
        z_img: Raw image embeddings.
        z_txt: Raw text embeddings, row by row of the same samples.
        scale: Factor of the cosine similarities.
        kind: The form of the loss, see `row_losses`.

    Returns:
        Loss per row, and whether the row's caption is the nearest to its picture (0 or 1).
    """
    z_img, z_txt = F.normalize(z_img, dim=-1), F.normalize(z_txt, dim=-1)
    all_img, all_txt, target = _gathered(z_img, z_txt)
    of_images = scale * z_img @ all_txt.T
    of_texts = scale * z_txt @ all_img.T
    losses = row_losses(of_images, target, kind) + row_losses(of_texts, target, kind)
    return losses / 2, (of_images.argmax(dim=-1) == target).float()


def row_losses(
    logits: Float[Tensor, " batch global"], target: Int[Tensor, " batch"], kind: LossKind
) -> Float[Tensor, " batch"]:
    r"""One loss per row of similarities, whose softmax is p.

    ``softmax`` is :math:`-\log p_{ii}`; ``explicit_negatives`` also asks every wrong pair to be
    improbable by itself:

    .. math:: -\log p_{ii} - \sum_{j \ne i} \log(1 - p_{ij})

    The second follows from the first plus a Bernoulli likelihood per wrong pair; for confident rows
    it is the first twice over, since then :math:`\sum_{j \ne i} p_{ij} \approx -\log p_{ii}`.

    Args:
        logits: Scaled similarities.
        target: Column of each row's own pair.
        kind: The form.
    """
    own = F.cross_entropy(logits, target, reduction="none")
    if kind == "softmax":
        return own
    # log(1 - p) from log p without cancellation; where p rounds to 1 it is bounded.
    log_p = F.log_softmax(logits.float(), dim=-1)
    log_rest = torch.log(-torch.expm1(log_p.clamp(max=-1e-6)))
    is_own = F.one_hot(target, logits.shape[1]).bool()
    return own - log_rest.masked_fill(is_own, 0.0).sum(dim=-1)


def _gathered(
    z_img: Float[Tensor, " batch dim"], z_txt: Float[Tensor, " batch dim"]
) -> tuple[Float[Tensor, " global dim"], Float[Tensor, " global dim"], Int[Tensor, " batch"]]:
    """Both embeddings of the global batch, and where our own rows lie in it."""
    own = torch.arange(len(z_img), device=z_img.device)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return z_img, z_txt, own
    mine = torch.tensor([len(z_img)], device=z_img.device)
    sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, mine)
    counts = [int(size) for size in sizes]
    joined = _GatherRows.apply(torch.cat([z_img, z_txt], dim=1), counts)
    assert isinstance(joined, Tensor)
    all_img, all_txt = joined.chunk(2, dim=1)
    return all_img, all_txt, own + sum(counts[: dist.get_rank()])
