import pytest
import torch
from torch.nn import functional

from pipeline.generation.upsampling import back_projected


def shrunk(pictures, scale):
    return functional.avg_pool2d(pictures, scale)


def test_a_picture_that_shrinks_to_the_small_one_stays_as_it_is():
    large = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5
    assert torch.allclose(back_projected(large, shrunk(large, 4)), large, atol=1e-6)


def test_a_shift_of_colour_is_taken_back_whole():
    large = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) - 0.5
    shifted = large + torch.tensor([0.2, -0.1, 0.05]).reshape(1, 3, 1, 1)
    assert torch.allclose(back_projected(shifted, shrunk(large, 4)), large, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 4])
def test_an_uneven_error_becomes_smaller(scale):
    generator = torch.Generator().manual_seed(3)
    large = torch.rand(4, 3, 32, 32, generator=generator) * 0.2
    small = shrunk(large, scale) + 0.1 * torch.randn(
        4, 3, 32 // scale, 32 // scale, generator=generator
    )
    before = (shrunk(large, scale) - small).abs().mean()
    after = (shrunk(back_projected(large, small), scale) - small).abs().mean()
    assert after < 0.7 * before
