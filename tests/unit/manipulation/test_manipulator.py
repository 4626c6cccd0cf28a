import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.generation.config import Sampling
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.manipulation.manipulator import Latents, Manipulator
from tests import tiny_stack
from tests.synthetic import DIM

NUM = 3
SAMPLING = {
    "prior": {"num_steps": 3, "num_candidates": 1},
    "decoder": {"guidance_scale": 1.0},
    "upsamplers": [{"num_steps": 2, "back_project": True}],
}


def unclip_of(run_uri, **decoder):
    values = {**SAMPLING, "decoder": {**SAMPLING["decoder"], **decoder}}
    sampling = Sampling.model_validate(values)
    return UnCLIP.from_stages(RunStages.read(run_uri), sampling, device="cpu")


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return tiny_stack.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def changer(run_uri):
    return Manipulator(unclip_of(run_uri), num_steps=4, seed=1)


@pytest.fixture(scope="module")
def pictures(changer):
    rng = torch.Generator().manual_seed(0)
    return torch.rand(NUM, 3, changer.source_px, changer.source_px, generator=rng) * 2 - 1


@pytest.fixture(scope="module")
def latents(changer, pictures):
    return changer.encode(pictures, range(NUM))


def other(latents):
    return Latents(latents.z_img.flip(0), latents.x_end.flip(0), latents.indices[::-1])


def apart(first, second):
    return float((first - second).abs().amax())


def test_pictures_are_given_in_the_final_side(changer):
    assert (changer.source_px, changer.decoder_px) == (16, 8)


def test_a_reconstruction_comes_closer_with_the_steps(run_uri, pictures):
    small = torch.nn.functional.adaptive_avg_pool2d(pictures, 8)
    errors = []
    for num_steps in (2, 20):
        changer = Manipulator(unclip_of(run_uri), num_steps=num_steps)
        again = changer.reconstruction(changer.encode(pictures, range(NUM)))
        errors.append(float(((again - small) ** 2).mean()))
    assert errors[1] < errors[0]


def test_guidance_holds_both_ways(run_uri, changer, latents, pictures):
    guided = Manipulator(unclip_of(run_uri, guidance_scale=3.0), num_steps=4)
    found = guided.encode(pictures, range(NUM))
    assert apart(found.x_end, latents.x_end) > 1e-3
    assert torch.equal(found.z_img, latents.z_img)


def test_ends_of_an_interpolation_are_the_reconstructions(changer, latents):
    second = other(latents)
    found = changer.interpolation(latents, second, (0.0, 0.5, 1.0))
    assert list(found) == ["theta 0.00", "theta 0.50", "theta 1.00"]
    assert torch.equal(found["theta 0.00"], changer.reconstruction(latents))
    assert torch.equal(found["theta 1.00"], changer.reconstruction(second))
    fixed = changer.interpolation(latents, second, (0.0,), fixed_noise=True)
    assert apart(fixed["theta 0.00"], found["theta 0.00"]) > 1e-3


def test_variations_differ_and_shrink_to_the_reconstruction_with_eta(changer, latents):
    again = changer.reconstruction(latents)
    first, second = changer.variations(latents, 2).values()
    assert apart(first, second) > 1e-3
    (little,) = changer.variations(latents, 1, eta=1e-4).values()
    assert apart(little, again) < 1e-2 < apart(first, again)
    (none,) = changer.variations(latents, 1, eta=0.0).values()
    assert torch.equal(none, again)
    (fresh,) = changer.variations(latents, 1, eta=0.0, fresh=True).values()
    assert apart(fresh, again) > 1e-3


def test_a_text_difference_starts_at_the_reconstruction_and_depends_on_both_texts(changer, latents):
    def found(base, text):
        drawn = changer.text_difference(latents, [base] * NUM, [text] * NUM, (0.0, 0.5))
        return list(drawn.values())

    start, end = found("a red circle", "a blue circle")
    assert torch.equal(start, changer.reconstruction(latents))
    for base, text in (("a red circle", "a green star"), ("", "a blue circle")):
        assert apart(found(base, text)[1], end) > 1e-5


def test_all_components_are_the_embedding_and_few_are_not(changer, latents):
    rng = torch.Generator().manual_seed(0)
    components = torch.linalg.qr(torch.randn(DIM, DIM, generator=rng)).Q.numpy()
    pca = {"mean": np.zeros(DIM, np.float32), "components": components}
    found = changer.principal_components(latents, pca, (1, DIM))
    plain = changer.principal_components(
        latents, {**pca, "components": np.eye(DIM, dtype=np.float32)}, (DIM,)
    )
    assert list(found) == ["1 dimensions", f"{DIM} dimensions"]
    every = found[f"{DIM} dimensions"]
    assert apart(every, plain[f"{DIM} dimensions"]) < 1e-4
    assert apart(every, found["1 dimensions"]) > 1e-3


def known_mask(changer, num=NUM):
    is_known = torch.ones(num, 1, changer.source_px, changer.source_px, dtype=torch.bool)
    is_known[..., 3:9, 5:12] = False
    return is_known


@pytest.mark.parametrize("text", ["", "a red circle"])
def test_inpainting_changes_the_mask_and_nothing_else(changer, pictures, text):
    is_known = known_mask(changer)
    made = changer.inpainting(pictures, is_known, [text] * NUM, range(NUM), num_visits=2)
    where = is_known.expand_as(pictures)
    assert torch.equal(made[where], pictures[where])
    assert (made[~where] != pictures[~where]).float().mean() > 0.9
    again = changer.inpainting(pictures, is_known, [text] * NUM, range(NUM), num_visits=2)
    assert torch.equal(made, again)


def test_what_is_painted_follows_the_text(changer, pictures):
    is_known = known_mask(changer)
    texts = ["a red circle", "a green star", ""]
    made = [
        changer.inpainting(pictures[:1], is_known[:1], [text], [0], num_visits=1) for text in texts
    ]
    assert apart(made[0], made[1]) > 1e-3
    assert apart(made[0], made[2]) > 1e-3
    mixed = changer.inpainting(pictures[[0, 0, 0]], is_known, texts, [0, 0, 0], num_visits=1)
    torch.testing.assert_close(mixed, torch.cat(made), atol=1e-3, rtol=0)


def test_a_picture_does_not_depend_on_its_batch(changer, pictures, latents):
    alone = changer.encode(pictures[2:], [2])
    torch.testing.assert_close(alone.x_end, latents.x_end[2:], atol=1e-3, rtol=1e-3)
    (one,) = changer.variations(alone, 1).values()
    (all_of_them,) = changer.variations(latents, 1).values()
    torch.testing.assert_close(one, all_of_them[2:], atol=1e-2, rtol=0)
    finals = changer.final(one, [2]), changer.final(all_of_them, range(NUM))[2:]
    torch.testing.assert_close(*finals, atol=1e-2, rtol=0)


def test_more_steps_than_the_decoder_was_trained_with_are_refused(run_uri):
    with pytest.raises(ConfigError, match="num_steps=21, the model was trained with 20"):
        Manipulator(unclip_of(run_uri), num_steps=21)
