"""The yardstick: diffusers' and transformers' own modules, with random weights."""

import warnings

import pytest
import torch
from torch.nn import functional

from pipeline.interop.diffusers import names, settings, weights
from pipeline.interop.pairs import meta_state
from pipeline.models.config import ClipConfig, DecoderConfig, PriorConfig, UpsamplerConfig
from pipeline.models.presets import build_clip, build_decoder, build_prior, build_upsampler
from pipeline.models.scales import KARLO_CLIP, KARLO_DECODER, KARLO_PRIOR, KARLO_UPSAMPLER_64_256
from pipeline.models.tokenizer import tokenizer
from tests.exportable_stack import CLIP, DIM, LENGTH, PLAIN, TASKS, UNET, randomised

pytestmark = pytest.mark.slow  # importing diffusers takes ten seconds

PRIOR = PriorConfig.model_validate(TASKS["prior"]["model"])
DECODER = DecoderConfig.model_validate(TASKS["decoder"]["model"])
T = torch.tensor([0, 5, 500, 999])


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their own imports
        import diffusers
        import transformers
        from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
    diffusers.UnCLIPTextProjModel = UnCLIPTextProjModel
    diffusers.clip = transformers
    return diffusers


def named(component, network):
    return {f"{component}.{name}": tensor for name, tensor in network.state_dict().items()}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def conditions():
    torch.manual_seed(1)
    mask = torch.arange(LENGTH)[None] < torch.tensor([2, 5, LENGTH, 7])[:, None]
    return torch.randn(4, DIM), torch.randn(4, LENGTH, DIM), mask


@pytest.mark.parametrize("padding", ["masked", "last"])
def test_prior(theirs, padding):
    network = randomised(theirs.PriorTransformer.from_config(settings.prior_json(PRIOR)))
    config = PRIOR.model_copy(update={"padding": padding})
    state = weights.import_prior(named("prior", network), config, "diffusers")
    ours = build_prior(config).eval()
    ours.load_state_dict(state)
    z_txt, states, mask = conditions()
    z_t = torch.randn(4, DIM)
    with torch.no_grad():
        expected = network(z_t, T, z_txt, states, mask).predicted_image_embedding
        found = ours(z_t, T, z_txt, states, mask)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        raw = network.post_process_latents(z_t)
        torch.testing.assert_close(ours.unwhiten(z_t), raw, atol=1e-5, rtol=0)
    assert_same_bits(weights.export_prior(ours.state_dict(), config), named("prior", network))


def decoder_and_projections(theirs):
    decoder = randomised(theirs.UNet2DConditionModel.from_config(settings.decoder_json(DECODER)))
    projections = theirs.UnCLIPTextProjModel.from_config(settings.text_proj_json(DECODER))
    return decoder, randomised(projections)


def run_decoder(decoder, projections, x_t, z, z_txt, states, mask):
    """As the pipelines call them."""
    context, emb = projections(
        image_embeddings=z,
        prompt_embeds=z_txt,
        text_encoder_hidden_states=states,
        do_classifier_free_guidance=False,
    )
    padded = functional.pad(mask, (DECODER.num_image_tokens, 0), value=True)
    return decoder(x_t, T, context, class_labels=emb, attention_mask=padded).sample


def test_decoder_with_text_projection(theirs):
    decoder, projections = decoder_and_projections(theirs)
    found = {**named("decoder", decoder), **named("text_proj", projections)}
    ours = build_decoder(DECODER).eval()
    ours.load_state_dict(weights.import_decoder(found, DECODER, "diffusers"))
    z_txt, states, mask = conditions()
    x_t, z, has = torch.randn(4, 3, 16, 16), torch.randn(4, DIM), torch.tensor([1, 0, 1, 0]) > 0
    null = projections.learned_classifier_free_guidance_embeddings
    with torch.no_grad():
        theirs_z = torch.where(has[:, None], z, null)
        expected = run_decoder(decoder, projections, x_t, theirs_z, z_txt, states, mask)
        output = ours(x_t, T, z, has, z_txt, states, mask)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    assert_same_bits(weights.export_decoder(ours.state_dict(), DECODER), found)


def test_a_decoders_whitening_and_fixed_variance_are_folded_in(theirs):
    config = DECODER.model_copy(update={"learned_variance": False})
    ours = randomised(build_decoder(config))
    assert ours.null_z.abs().min() > 0
    found = weights.export_decoder(ours.state_dict(), config)
    decoder, projections = decoder_and_projections(theirs)
    for component, network in (("decoder", decoder), ("text_proj", projections)):
        prefix = f"{component}."
        part = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
        network.load_state_dict(part)
    z_txt, states, mask = conditions()
    x_t, z, has = torch.randn(4, 3, 16, 16), torch.randn(4, DIM), torch.tensor([1, 0, 1, 0]) > 0
    null = projections.learned_classifier_free_guidance_embeddings
    with torch.no_grad():
        theirs_z = torch.where(has[:, None], z, null)
        output = run_decoder(decoder, projections, x_t, theirs_z, z_txt, states, mask)
        expected = ours(x_t, T, z, has, z_txt, states, mask)
    torch.testing.assert_close(output[:, :3], expected, atol=1e-5, rtol=0)
    assert (output[:, 3:] == -1).all()
    again = weights.import_decoder(found, config, "diffusers")
    assert weights.says_least_variance(found)
    assert_same_bits(weights.export_decoder(again, config), found)


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize(
    "shape", [PLAIN, UNET, {**UNET, "attention_levels": [0, 2]}], ids=["plain", "mid", "levels"]
)
def test_upsampler(theirs, shape, scale_shift):
    values = {"low_px": 8, "high_px": 16, "unet": {**shape, "scale_shift": scale_shift}}
    config = UpsamplerConfig.model_validate({**values, "resize": "bicubic"})
    network = randomised(theirs.UNet2DModel.from_config(settings.upsampler_json(config)))
    state = weights.import_upsampler(named("there", network), config, "there", "diffusers")
    ours = build_upsampler(config).eval()
    ours.load_state_dict(state)
    x_t, low_res = torch.randn(4, 3, 16, 16), torch.rand(4, 3, 8, 8) * 2 - 1
    # As the pipelines enlarge it.
    enlarged = functional.interpolate(
        low_res, size=[16, 16], mode="bicubic", align_corners=False, antialias=True
    )
    with torch.no_grad():
        expected = network(torch.cat([x_t, enlarged], dim=1), T).sample
        torch.testing.assert_close(ours(x_t, T, low_res), expected, atol=1e-5, rtol=0)
    found = weights.export_upsampler(ours.state_dict(), config, "there")
    assert_same_bits(found, named("there", network))


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_clip(theirs, quick_gelu):
    config = ClipConfig.model_validate({**CLIP, "quick_gelu": quick_gelu})
    kinds = theirs.clip
    text = kinds.CLIPTextModelWithProjection(
        kinds.CLIPTextConfig.from_dict(settings.text_encoder_json(config))
    )
    vision = kinds.CLIPVisionModelWithProjection(
        kinds.CLIPVisionConfig.from_dict(settings.image_encoder_json(config))
    )
    randomised(text)
    randomised(vision)
    found = {**named("text_encoder", text), **named("image_encoder", vision)}
    ours = build_clip(config).eval()
    ours.load_state_dict(weights.import_clip(found, config, "transformers"))
    tokens = torch.from_numpy(tokenizer()(["a red circle", "", "two blue squares! on grey"]))
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        output = text(tokens)
        z_txt, states = ours.encode_text(tokens)
        kept = states.shape[1]
        torch.testing.assert_close(z_txt, output.text_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(states, output.last_hidden_state[:, :kept], atol=1e-5, rtol=0)
        seen = (images * 0.5 + 0.5 - ours.mean) / ours.std
        torch.testing.assert_close(
            ours.encode_image(images), vision(seen).image_embeds, atol=1e-5, rtol=0
        )
    assert_same_bits(weights.export_clip(ours.state_dict(), config), found)


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_karlos_full_size_has_every_name_and_shape(theirs):
    with torch.device("meta"):
        prior = theirs.PriorTransformer()
        decoder = theirs.UNet2DConditionModel.from_config(settings.decoder_json(KARLO_DECODER))
        projections = theirs.UnCLIPTextProjModel(time_embed_dim=1280, cross_attention_dim=1536)
        upsampler = theirs.UNet2DModel.from_config(settings.upsampler_json(KARLO_UPSAMPLER_64_256))
    assert shapes(named("prior", prior)) == shapes(
        weights.export_prior(meta_state(lambda: build_prior(KARLO_PRIOR)), KARLO_PRIOR)
    )
    assert shapes({**named("decoder", decoder), **named("text_proj", projections)}) == shapes(
        weights.export_decoder(meta_state(lambda: build_decoder(KARLO_DECODER)), KARLO_DECODER)
    )
    own = meta_state(lambda: build_upsampler(KARLO_UPSAMPLER_64_256))
    assert shapes(named("a", upsampler)) == shapes(
        weights.export_upsampler(own, KARLO_UPSAMPLER_64_256, "a")
    )
    clip = weights.export_clip(meta_state(lambda: build_clip(KARLO_CLIP)), KARLO_CLIP)
    with torch.device("meta"):
        kinds = theirs.clip
        text = kinds.CLIPTextModelWithProjection(
            kinds.CLIPTextConfig.from_dict(settings.text_encoder_json(KARLO_CLIP))
        )
    prefix = f"{names.TEXT_ENCODER}."
    assert shapes(named("text_encoder", text)) == shapes(
        {name: tensor for name, tensor in clip.items() if name.startswith(prefix)}
    )
