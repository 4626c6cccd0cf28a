import multiprocessing
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from pipeline.training.contrastive import contrastive_loss

ROWS = 7
SPLITS = {2: (4, 3), 4: (3, 1, 2, 1)}


def embeddings():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 5, generator=generator), torch.randn(ROWS, 5, generator=generator)


def gradients(z_img, z_txt, scale, kind="softmax"):
    z_img, z_txt = z_img.clone().requires_grad_(), z_txt.clone().requires_grad_()
    scale = torch.tensor(scale, requires_grad=True)
    losses, _ = contrastive_loss(z_img, z_txt, scale, kind)
    (losses.sum() / ROWS).backward()
    return losses.detach(), z_img.grad, z_txt.grad, scale.grad


def worker(rank, counts, path, results, kind):
    dist.init_process_group("gloo", f"file://{path}", rank=rank, world_size=len(counts))
    start = sum(counts[:rank])
    rows = slice(start, start + counts[rank])
    z_img, z_txt = embeddings()
    results.put((rank, [x.tolist() for x in gradients(z_img[rows], z_txt[rows], 3.0, kind)]))
    dist.barrier()
    dist.destroy_process_group()


def test_loss_is_the_symmetric_cross_entropy():
    z_img, z_txt = (F.normalize(z, dim=-1) for z in embeddings())
    logits = 3.0 * z_img @ z_txt.T
    target = torch.arange(ROWS)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    losses, _ = contrastive_loss(*embeddings(), torch.tensor(3.0))
    torch.testing.assert_close(losses.mean(), expected)


def test_lengths_of_embeddings_do_not_matter():
    z_img, z_txt = embeddings()
    one, _ = contrastive_loss(z_img, z_txt, torch.tensor(3.0))
    other, _ = contrastive_loss(5 * z_img, 0.1 * z_txt, torch.tensor(3.0))
    torch.testing.assert_close(one, other)


def test_matching_rows_are_hits():
    z_img, _ = embeddings()
    _, hits = contrastive_loss(z_img, z_img, torch.tensor(50.0))
    assert hits.tolist() == [1.0] * ROWS


def test_explicit_negatives_add_each_wrong_pairs_own_likelihood():
    z_img, z_txt = (F.normalize(z, dim=-1).double() for z in embeddings())
    logits = 3.0 * z_img @ z_txt.T
    expected = torch.zeros(ROWS, dtype=torch.float64)
    for p in (logits.softmax(dim=1), logits.T.softmax(dim=1)):
        for i in range(ROWS):
            wrong = sum(torch.log(1 - p[i, j]) for j in range(ROWS) if j != i)
            expected[i] += (-torch.log(p[i, i]) - wrong) / 2
    losses, _ = contrastive_loss(*embeddings(), torch.tensor(3.0), "explicit_negatives")
    torch.testing.assert_close(losses, expected.float())


def test_explicit_negatives_are_finite_where_a_wrong_pair_is_certain():
    z_img, _ = embeddings()
    z_img.requires_grad_()
    losses, _ = contrastive_loss(z_img, z_img.roll(1, 0), torch.tensor(100.0), "explicit_negatives")
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(z_img.grad).all()


@pytest.mark.slow  # starts processes that import torch
@pytest.mark.parametrize(
    ("workers", "kind"), [(2, "softmax"), (4, "softmax"), (2, "explicit_negatives")]
)
def test_loss_and_gradients_are_the_same_on_any_number_of_workers(workers, kind):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(
                target=worker, args=(r, SPLITS[workers], f"{folder}/store", results, kind)
            )
            for r in range(workers)
        ]
        for process in processes:
            process.start()
        parts = dict(results.get(timeout=300) for _ in processes)
        for process in processes:
            process.join()
    expected = gradients(*embeddings(), 3.0, kind)
    for index in range(3):
        joined = torch.cat([torch.tensor(parts[rank][index]) for rank in range(workers)])
        torch.testing.assert_close(joined, expected[index], atol=1e-6, rtol=1e-5)
    of_scale = sum(parts[rank][3] for rank in range(workers))
    assert of_scale == pytest.approx(expected[3].item(), rel=1e-4)
