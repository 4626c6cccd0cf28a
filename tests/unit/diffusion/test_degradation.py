import numpy as np
import pytest

from pipeline.diffusion.config import BlurConfig, BsrConfig
from pipeline.diffusion.degradation import degrade, gaussian_blur


def noise_picture(side=16):
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_blur_has_the_papers_kernel():
    dot = np.zeros((5, 5, 3), dtype=np.uint8)
    dot[2, 2] = 255
    side = np.exp(-1 / (2 * 0.6**2))
    weights = np.array([side, 1, side]) / (1 + 2 * side)
    expected = np.rint(255 * np.outer(weights, weights))
    blurred = gaussian_blur(dot, 0.6, radius=1)
    np.testing.assert_array_equal(blurred[1:4, 1:4, 0], expected)
    assert not blurred[0].any()


def test_flat_pictures_stay_as_they_are_up_to_their_border():
    flat = np.full((6, 4, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(degrade(flat, BlurConfig(), rng()), flat)


def test_blur_draws_nothing():
    picture = noise_picture()
    np.testing.assert_array_equal(
        degrade(picture, BlurConfig(), rng(1)), degrade(picture, BlurConfig(), rng(2))
    )


def test_bsr_is_a_function_of_the_generator_and_keeps_the_size():
    picture = noise_picture(24)
    one, again, other = (degrade(picture, BsrConfig(), rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert one.shape == picture.shape
    assert (one != other).any()
    assert (one != picture).mean() > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_bsr_keeps_the_picture_recognisable(seed):
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], (32, 1, 3))
    spoilt = degrade(ramp, BsrConfig(), rng(seed)).astype(float)
    assert np.corrcoef(spoilt.ravel(), ramp.ravel())[0, 1] > 0.9
