import numpy as np
import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.generation.config import PriorSampling, Sampling
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.generation.upsampling import picture_seeds
from pipeline.generation.weights import load_stack
from pipeline.models.config import AutoregressivePriorConfig, DecoderConfig, LinearPriorConfig
from pipeline.models.presets import (
    build_autoregressive_prior,
    build_decoder,
    build_linear_prior,
)
from tests import tiny_stack

CPU = torch.device("cpu")
TEXTS = ["a red circle", "a blue square", "a green star"]
AUTOREGRESSIVE = {
    **tiny_stack.PRIOR, "num_buckets": 5, "dot_buckets": 4, "prefix_tokens": 10,
}  # fmt: skip
CODES = {"codes": {"num_components": 3}}


def autoregressive():
    config = AutoregressivePriorConfig.model_validate(AUTOREGRESSIVE)
    prior = build_autoregressive_prior(config, 3)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    dim = config.clip.embed_dim
    prior.codes.components.copy_(torch.linalg.qr(torch.randn(dim, dim)).Q[:3])
    prior.codes.centres.copy_(torch.linspace(-1, 1, 5).expand(3, -1))
    return prior


def linear():
    config = LinearPriorConfig.model_validate({"clip": tiny_stack.CLIP_SHAPE})
    prior = build_linear_prior(config)
    torch.nn.init.normal_(prior.linear.weight)
    return prior


def stack_with(folder, kind):
    results = tiny_stack.make_stack(folder)
    inputs = {"clip": results["clip"].manifest_hash}
    torch.manual_seed(1)
    if kind == "autoregressive_prior":
        task = {"type": kind, "model": AUTOREGRESSIVE}
        prior = tiny_stack.train_result(folder, "prior2", autoregressive(), task, inputs, CODES)
    else:
        task = {"type": kind, "model": {"clip": tiny_stack.CLIP_SHAPE}}
        prior = tiny_stack.train_result(folder, "prior2", linear(), task, inputs)
    return results | {"prior": prior}


def unclip_with(folder, kind, **prior):
    stages = RunStages.of(stack_with(folder, kind))
    values = {"prior": prior, "decoder": {"num_steps": 2}, "upsamplers": [{"num_steps": 1}]}
    return UnCLIP.from_stages(stages, Sampling.model_validate(values), device="cpu")


@pytest.mark.parametrize("kind", ["autoregressive_prior", "linear_prior"])
def test_every_prior_makes_pictures_of_captions(tmp_path, kind):
    unclip = unclip_with(tmp_path, kind)
    first, second = unclip(["a red circle", "a blue square"], seed=1)
    assert first.size == (16, 16)
    assert (np.asarray(first) != np.asarray(second)).any()
    again = unclip("a red circle", seed=1)
    np.testing.assert_allclose(np.asarray(again).astype(int), np.asarray(first), atol=1)


def test_the_mean_of_draws_is_kept_where_it_is_asked_for(tmp_path):
    unclip = unclip_with(tmp_path, "autoregressive_prior", num_candidates=3, kept="mean")
    found = unclip.sample_prior(TEXTS, 3, [0, 1, 2])
    conditions, prior = unclip.encode([*TEXTS, ""]), unclip.stack.prior
    draws = [
        prior.draw(conditions, picture_seeds(3, f"prior/{n}", [0, 1, 2]), PriorSampling())
        for n in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(draws).mean(dim=0))
    assert "kept" not in PriorSampling().model_dump()
    assert PriorSampling(kept="mean").model_dump()["kept"] == "mean"


def test_autoregressive_draws_do_not_depend_on_the_batch(tmp_path):
    unclip = unclip_with(tmp_path, "autoregressive_prior", num_candidates=1)
    together = unclip.sample_prior(TEXTS, 3, [0, 1, 2])
    for index, text in enumerate(TEXTS):
        alone = unclip.sample_prior([text], 3, [index])
        torch.testing.assert_close(alone, together[index : index + 1])
    other = unclip.sample_prior(TEXTS, 4, [0, 1, 2])
    assert not torch.allclose(other, together)


def test_the_candidate_closest_to_the_caption_is_kept(tmp_path):
    few = unclip_with(tmp_path / "few", "autoregressive_prior", num_candidates=1)
    many = unclip_with(tmp_path / "many", "autoregressive_prior", num_candidates=8)
    texts = [f"picture {n}" for n in range(12)]
    cosines = [
        torch.cosine_similarity(u.sample_prior(texts, 0, list(range(12))), u.encode(texts).z_txt)
        for u in (few, many)
    ]
    assert (cosines[1] >= cosines[0] - 1e-6).all()
    assert (cosines[1] > cosines[0] + 1e-4).any()


def test_a_linear_prior_says_the_same_whatever_the_seed(tmp_path):
    unclip = unclip_with(tmp_path, "linear_prior")
    one, other = (unclip.sample_prior(TEXTS, seed, [0, 1, 2]) for seed in (0, 9))
    torch.testing.assert_close(one, other)
    network = unclip.stack.prior.network
    torch.testing.assert_close(one, network(unclip.encode(TEXTS).z_txt))


def test_the_captions_own_embedding_may_stand_in_for_the_prior(tmp_path):
    unclip = unclip_with(tmp_path, "autoregressive_prior", source="z_txt")
    torch.testing.assert_close(unclip.sample_prior(TEXTS, 0, [0, 1, 2]), unclip.encode(TEXTS).z_txt)


def test_a_file_that_does_not_say_how_many_codes_it_has_is_refused(tmp_path):
    results = tiny_stack.make_stack(tmp_path)
    task = {"type": "autoregressive_prior", "model": AUTOREGRESSIVE}
    inputs = {"clip": results["clip"].manifest_hash}
    prior = tiny_stack.train_result(tmp_path, "prior2", autoregressive(), task, inputs)
    with pytest.raises(CheckpointError, match="how many codes"):
        load_stack(RunStages.of(results | {"prior": prior}), CPU)


def decoder_with(folder, *without, **changes):
    results = tiny_stack.make_stack(folder)
    model = tiny_stack.DECODER | changes
    torch.manual_seed(1)
    decoder = build_decoder(DecoderConfig.model_validate(model))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    task = {"type": "decoder", "model": model, "diffusion": tiny_stack.diffusion("eps")}
    inputs = {"clip": results["clip"].manifest_hash}
    made = tiny_stack.train_result(folder, "decoder2", decoder, task, inputs, stated=True)
    results = {name: result for name, result in results.items() if name not in without}
    settings = {"num_steps": 2, "guidance_scale": 2.0}
    sampling = Sampling.model_validate({"prior": {"num_steps": 2}, "decoder": settings})
    stages = RunStages.of(results | {"decoder": made})
    return UnCLIP.from_stages(stages, sampling.model_copy(update={"upsamplers": ()}), device="cpu")


OWN = {
    "type": "own", "vocabulary": "bytes", "context_length": 12, "width": 16, "layers": 1,
    "head_width": 8,
}  # fmt: skip


def test_a_decoder_may_read_captions_by_itself(tmp_path):
    unclip = decoder_with(tmp_path, text=OWN)
    z_img = unclip.sample_prior(["a red circle"], 0, [0])
    shown = [unclip.decode(z_img, [text], 0, [0]) for text in ("a red circle", "a blue circle")]
    assert (shown[0] - shown[1]).abs().max() > 1e-4


def test_a_text_only_decoder_reads_no_embedding(tmp_path):
    unclip = decoder_with(tmp_path, embedding="none")
    z_img = unclip.sample_prior(["a red circle"], 0, [0])
    one, other = (unclip.decode(z, ["a red circle"], 0, [0]) for z in (z_img, z_img + 3))
    torch.testing.assert_close(one, other)
    assert (unclip.decode(z_img, ["a star"], 0, [0]) - one).abs().max() > 1e-4


def test_a_decoder_trained_on_captions_embeddings_is_given_them(tmp_path):
    unclip = decoder_with(tmp_path, embedding="z_txt")
    found = unclip.sample_prior(TEXTS, 0, [0, 1, 2])
    torch.testing.assert_close(found, unclip.encode(TEXTS).z_txt)


@pytest.mark.parametrize("embedding", ["none", "z_txt"])
def test_such_a_decoder_needs_no_prior(tmp_path, embedding):
    unclip = decoder_with(tmp_path, "prior", embedding=embedding)
    assert unclip.stack.prior is None
    assert "prior" not in unclip.stack.fingerprints
    assert unclip("a red circle", seed=1).size == (8, 8)


@pytest.mark.parametrize("changes", [{"sampler": "dpm_solver"}, {"dynamic_threshold": 0.9}])
def test_further_ways_of_sampling_give_pictures(tmp_path, changes):
    unclip = decoder_with(tmp_path)
    z_img = unclip.sample_prior(["a red circle"], 0, [0])
    base = unclip.decode(z_img, ["a red circle"], 0, [0])
    settings = unclip.sampling.decoder.model_copy(update={"num_steps": 4, **changes})
    other = UnCLIP(unclip.stack, unclip.sampling.model_copy(update={"decoder": settings}))
    made = other.decode(z_img, ["a red circle"], 0, [0])
    assert made.abs().max() <= 1
    assert (made - base).abs().max() > 1e-4


def test_sampling_settings_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="leave it out for dpm_solver"):
        Sampling.model_validate({"decoder": {"sampler": "dpm_solver", "eta": 0.5}})
    assert PriorSampling().temperature == 1.0
