import torch

from pipeline.models.config import ClipShape, LinearPriorConfig
from pipeline.models.presets import build_linear_prior, num_parameters
from pipeline.models.prior_linear import RidgeSums

CONFIG = LinearPriorConfig(clip=ClipShape(embed_dim=5, text_width=7))


def pairs(count=400, noise=0.1):
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    z_txt = torch.randn(count, 5, **options) + 2
    weight, bias = torch.randn(5, 5, **options), torch.randn(5, **options)
    z_img = z_txt @ weight.T + bias + noise * torch.randn(count, 5, **options)
    return z_txt, z_img, torch.rand(count, **options) + 0.5


def solved(parts, ridge=0.0):
    sums = RidgeSums(5)
    for part in parts:
        sums.add(*part)
    return sums.solve(ridge)


def test_the_solution_is_weighted_least_squares():
    z_txt, z_img, weights = pairs()
    root = weights.sqrt()[:, None]
    design = torch.cat([z_txt, torch.ones(len(z_txt), 1, dtype=torch.float64)], dim=1)
    expected = torch.linalg.lstsq(root * design, root * z_img).solution
    weight, bias = solved([(z_txt, z_img, weights)])
    torch.testing.assert_close(weight, expected[:5].T, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(bias, expected[5], atol=1e-6, rtol=1e-6)


def test_the_penalty_is_that_of_ridge_regression():
    z_txt, z_img, weights = pairs()
    uniform = torch.ones_like(weights)
    weight, bias = solved([(z_txt, z_img, uniform)], ridge=0.5)
    x, y = z_txt - z_txt.mean(dim=0), z_img - z_img.mean(dim=0)
    penalty = 0.5 * (x**2).sum() / 5
    expected = torch.linalg.solve(x.T @ x + penalty * torch.eye(5, dtype=torch.float64), x.T @ y)
    torch.testing.assert_close(weight, expected.T)
    torch.testing.assert_close(z_img.mean(dim=0), z_txt.mean(dim=0) @ weight.T + bias)


def test_any_cut_into_shards_gives_the_same():
    whole = pairs()
    cut = [tuple(part[start : start + 37] for part in whole) for start in range(0, 400, 37)]
    for one, other in zip(solved([whole], 0.1), solved(cut, 0.1), strict=True):
        torch.testing.assert_close(one, other)


def test_a_dimension_that_never_varies_does_no_harm():
    z_txt, z_img, weights = pairs()
    z_txt[:, 2] = 1.0
    weight, bias = solved([(z_txt, z_img, weights)])
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()


def test_a_fitted_prior_says_the_solution():
    prior = build_linear_prior(CONFIG)
    z_txt, z_img, weights = pairs(noise=0.0)
    assert not prior(z_txt.float()).any()
    prior.set_solution(*solved([(z_txt, z_img, weights)]))
    torch.testing.assert_close(prior(z_txt.float()), z_img.float(), atol=1e-3, rtol=1e-3)
    assert num_parameters(prior) == 30
