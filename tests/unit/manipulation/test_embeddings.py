import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from pipeline.manipulation.embeddings import on_components, slerp, towards_text

THETAS = (0.1, 0.25, 0.5, 0.9)


def rows(num=8, dim=16, seed=0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def angle(first, second):
    return cosine_similarity(first.double(), second.double()).clamp(-1, 1).acos()


@pytest.mark.parametrize("theta", THETAS)
def test_the_angle_grows_with_theta_and_the_length_goes_straight(theta):
    first, second = rows(seed=1), 3 * rows(seed=2)
    found = slerp(first, second, theta)
    whole = angle(first, second)
    torch.testing.assert_close(angle(first, found), theta * whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(angle(found, second), (1 - theta) * whole, atol=1e-5, rtol=1e-5)
    length = (1 - theta) * first.norm(dim=1) + theta * second.norm(dim=1)
    torch.testing.assert_close(found.norm(dim=1), length)


def test_the_ends_are_the_very_vectors():
    first, second = rows(seed=1), rows(seed=2)
    assert torch.equal(slerp(first, second, 0.0), first)
    assert torch.equal(slerp(first, second, 1.0), second)


def test_noise_stays_standard_normal_on_the_way():
    first, second = (rows(4, 3 * 32 * 32, seed).unflatten(1, (3, 32, 32)) for seed in (1, 2))
    found = slerp(first, second, 0.5)
    assert found.std().item() == pytest.approx(1, abs=0.03)
    # A mean of the two would have lost half of the variance.
    assert ((first + second) / 2).std().item() == pytest.approx(math.sqrt(0.5), abs=0.03)


def test_vectors_in_one_line_are_mixed():
    first = rows()
    torch.testing.assert_close(slerp(first, 3 * first, 0.5), 2 * first)
    assert slerp(first, -first, 0.25).isfinite().all()
    assert slerp(torch.zeros_like(first), first, 0.5).isfinite().all()


@pytest.mark.parametrize("theta", [0.0, *THETAS, 1.0])
def test_a_text_difference_keeps_the_length_and_ends_in_its_direction(theta):
    z_img, z_txt, base = rows(seed=1), 5 * rows(seed=2), 0.1 * rows(seed=3)
    found = towards_text(z_img, z_txt, base, theta)
    torch.testing.assert_close(found.norm(dim=1), z_img.norm(dim=1))
    wanted = z_txt / z_txt.norm(dim=1, keepdim=True) - base / base.norm(dim=1, keepdim=True)
    expected = (1 - theta) * angle(z_img, wanted)
    torch.testing.assert_close(angle(found, wanted), expected, atol=1e-4, rtol=1e-4)


def test_the_lengths_of_texts_do_not_matter():
    z_img, z_txt, base = rows(seed=1), rows(seed=2), rows(seed=3)
    torch.testing.assert_close(
        towards_text(z_img, z_txt, base, 0.3), towards_text(z_img, 7 * z_txt, 0.2 * base, 0.3)
    )


def test_components_project_and_lose_less_with_their_number():
    z, mean = rows(dim=6), rows(1, 6, seed=5)[0]
    components = torch.linalg.qr(rows(6, 6, seed=6)).Q
    torch.testing.assert_close(on_components(z, mean, components, 6), z)
    lost = [float((on_components(z, mean, components, k) - z).norm()) for k in range(1, 7)]
    assert lost == sorted(lost, reverse=True)
    once = on_components(z, mean, components, 2)
    torch.testing.assert_close(on_components(once, mean, components, 2), once)
    assert torch.linalg.matrix_rank(once - mean) == 2
