import json

import numpy as np
import pytest
import torch

from pipeline.errors import CheckpointError, ConfigError
from pipeline.generation import prompts
from pipeline.generation.config import DecoderSampling, Sampling
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.generation.weights import load_stack
from tests import tiny_stack
from tests.synthetic import DIM

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return tiny_stack.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def unclip(run_uri):
    return UnCLIP.from_run(run_uri, device="cpu")


def pixels(image):
    return np.asarray(image).astype(int)


def test_a_text_gives_a_picture_and_a_list_gives_a_list(unclip):
    one = unclip("a red circle", seed=1)
    many = unclip(["a red circle", "a blue square"], seed=1)
    assert one.size == (16, 16)
    assert len(many) == 2
    np.testing.assert_allclose(pixels(one), pixels(many[0]), atol=1)


def test_the_same_seed_gives_the_same_picture_for_any_batch_size(unclip):
    texts = [f"picture number {n}" for n in range(5)]
    whole = unclip(texts, seed=4, batch_size=5)
    for batch_size in (1, 2, 3):
        for a, b in zip(whole, unclip(texts, seed=4, batch_size=batch_size), strict=True):
            np.testing.assert_allclose(pixels(a), pixels(b), atol=1)


def test_another_seed_prompt_or_guidance_gives_another_picture(unclip):
    base = pixels(unclip("a red circle", seed=1))
    assert (pixels(unclip("a red circle", seed=2)) != base).any()
    assert (pixels(unclip("a green star", seed=1)) != base).any()
    assert (pixels(unclip("a red circle", seed=1, guidance_scale=1.0)) != base).any()
    assert (pixels(unclip("a red circle", seed=1)) == base).all()


def test_pictures_of_one_list_differ_by_their_place(unclip):
    first, second = unclip(["a red circle", "a red circle"], seed=1)
    assert (pixels(first) != pixels(second)).any()


def test_the_prior_keeps_the_draw_closest_to_the_caption(run_uri):
    texts, indices = [f"picture {n}" for n in range(8)], list(range(8))
    draws = []
    for num in (1, 4):
        sampling = Sampling.model_validate({"prior": {"num_steps": 3, "num_candidates": num}})
        unclip = UnCLIP.from_stages(RunStages.read(run_uri), sampling, device="cpu")
        z_img = unclip.sample_prior(texts, 0, indices)
        z_txt = unclip.encode(texts).z_txt
        draws.append(torch.nn.functional.cosine_similarity(z_img, z_txt))
    assert (draws[1] >= draws[0] - 1e-5).all()
    assert (draws[1] > draws[0] + 1e-4).any()


def test_prior_guidance_of_one_equals_no_guidance_and_more_moves_away(run_uri):
    def z_img(scale):
        prior = {"num_steps": 3, "num_candidates": 1, "guidance_scale": scale}
        sampling = Sampling.model_validate({"prior": prior})
        unclip = UnCLIP.from_stages(RunStages.read(run_uri), sampling, device="cpu")
        return unclip.sample_prior(["a red circle"], 0, [0])

    torch.testing.assert_close(z_img(1.0), z_img(1.0 + 1e-6), atol=1e-4, rtol=1e-4)
    assert (z_img(3.0) - z_img(1.0)).abs().max() > 1e-4


def test_a_hidden_caption_leaves_the_picture_to_z_img(unclip):
    z_img = unclip.sample_prior(["a red circle"], 0, [0])
    shown = unclip.decode(z_img, ["a red circle"], 0, [0])
    hidden = unclip.decode(z_img, [""], 0, [0])
    assert (shown != hidden).any()
    assert (unclip.decode(z_img + 1.0, [""], 0, [0]) != hidden).any()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_every_sampler_gives_pictures_in_range(run_uri, sampler):
    decoder = {"num_steps": 3, "sampler": sampler}
    sampling = Sampling.model_validate({"decoder": decoder, "prior": {"num_steps": 2}})
    unclip = UnCLIP.from_stages(RunStages.read(run_uri), sampling, device="cpu")
    z_img = unclip.sample_prior(["a red circle"], 0, [0])
    picture = unclip.decode(z_img, ["a red circle"], 0, [0])
    assert picture.shape == (1, 3, 8, 8)
    assert picture.abs().max() <= 1
    assert picture.std() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ([], "no prompt"),
        ("word " * 200, "longer than"),
        ("a\x00b", "control"),
    ],
)
def test_wrong_prompts_are_refused_before_anything_is_computed(wrong, message):
    untouched = object.__new__(UnCLIP)  # has no models: any computation would fail otherwise
    with pytest.raises(ConfigError, match=message):
        untouched(wrong)


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(ConfigError, match="prompt 1 is int"):
        prompts.check(["fine", 7])


def test_wrong_numbers_are_refused(unclip):
    with pytest.raises(ConfigError, match="seed=-1"):
        unclip("a red circle", seed=-1)
    with pytest.raises(ConfigError, match="guidance_scale"):
        unclip("a red circle", guidance_scale=-1.0)
    with pytest.raises(ConfigError, match="trained with 20"):
        unclip("a red circle", decoder_steps=21)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        UnCLIP.from_run(str(tmp_path))


def test_a_prior_of_another_clip_is_refused(tmp_path):
    first = tiny_stack.make_stack(tmp_path / "a", seed=0)
    second = tiny_stack.make_stack(tmp_path / "b", seed=1)
    mixed = RunStages.of({**first, "prior": second["prior"]})
    with pytest.raises(CheckpointError, match="trained on CLIP"):
        load_stack(mixed, CPU)


def test_weights_that_changed_after_training_are_refused(tmp_path):
    results = tiny_stack.make_stack(tmp_path)
    path = tmp_path / "decoder" / "000000000000" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_stack(RunStages.of(results), CPU)


def test_a_model_in_the_wrong_place_is_refused(tmp_path):
    results = tiny_stack.make_stack(tmp_path)
    with pytest.raises(CheckpointError, match="kind prior, expected decoder"):
        load_stack(RunStages.of({**results, "decoder": results["prior"]}), CPU)


def test_an_unfinished_run_is_refused_by_the_missing_stage(tmp_path):
    results = tiny_stack.make_stack(tmp_path)
    del results["prior"]
    with pytest.raises(ConfigError, match="no finished prior"):
        RunStages.of(results)


def test_more_upsamplers_than_trained_are_refused(tmp_path):
    results = tiny_stack.make_stack(tmp_path)
    stack = load_stack(RunStages.of(results), CPU)
    with pytest.raises(ConfigError, match="upsamplers=2"):
        UnCLIP(stack, Sampling())


def test_upsamplers_come_smallest_first(tmp_path):
    results = tiny_stack.make_stack(tmp_path)
    wide = {**results, "upsampler_16_64": results["clip"]}
    order = RunStages.of(dict(reversed(wide.items()))).upsamplers
    assert order == (results["upsampler_8_16"].uri, results["clip"].uri)


def test_back_projection_is_applied_where_it_is_asked_for(unclip):
    small = torch.full((1, 3, 8, 8), 0.25)
    upsamplers = tuple(
        settings.model_copy(update={"back_project": True})
        for settings in unclip.sampling.upsamplers
    )
    asked = UnCLIP(unclip.stack, unclip.sampling.model_copy(update={"upsamplers": upsamplers}))
    plain, shifted = (each.upsample(small, seed=1, indices=[0]) for each in (unclip, asked))
    assert not torch.allclose(plain.mean((2, 3)), small.mean((2, 3)), atol=0.02)
    assert (shifted - 0.25).mean().abs() < (plain - 0.25).mean().abs()


def with_clip_guidance(run_uri, scale):
    decoder = {"num_steps": 5, "guidance_scale": 1.0, "clip_guidance_scale": scale}
    sampling = Sampling.model_validate({"decoder": decoder, "upsamplers": []})
    return UnCLIP.from_stages(RunStages.read(run_uri), sampling, device="cpu")


def test_clip_guidance_raises_what_clip_thinks_and_leaves_hidden_captions_alone(run_uri):
    texts, indices = ["a red circle", "a blue square", "", "a green star"], range(4)
    z_img = torch.zeros(4, DIM)
    plain, guided = (with_clip_guidance(run_uri, scale) for scale in (0.0, 20.0))
    before, after = (each.decode(z_img, texts, 1, indices) for each in (plain, guided))
    wanted = plain.encode(texts).z_txt
    cosines = [
        torch.nn.functional.cosine_similarity(plain.encode_pictures(made), wanted)
        for made in (before, after)
    ]
    has_text = torch.tensor([bool(text) for text in texts])
    assert (cosines[1] > cosines[0])[has_text].all()
    torch.testing.assert_close(after[~has_text], before[~has_text], atol=1e-4, rtol=0)


def test_a_setting_that_is_not_used_leaves_identities_as_they_were():
    values = json.loads(Sampling().model_dump_json())
    assert "clip_guidance_scale" not in values["decoder"]
    used = {**values["decoder"], "clip_guidance_scale": 2.0}
    assert DecoderSampling.model_validate(used).model_dump()["clip_guidance_scale"] == 2.0
