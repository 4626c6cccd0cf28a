import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import presets, scales
from pipeline.models.presets import num_parameters


def made(build, *arguments):
    with torch.device("meta"):
        return build(*arguments)


def billions(model):
    return num_parameters(model) / 1e9


@pytest.mark.parametrize(
    ("build", "config", "label"),
    [
        (presets.build_clip, scales.KARLO_CLIP, 0.428),
        (presets.build_clip, scales.PAPER_CLIP, 0.986),  # open_clip's count for ViT-H
        (presets.build_prior, scales.KARLO_PRIOR, 1.022),
        (presets.build_decoder, scales.KARLO_DECODER, 0.885),
        (presets.build_upsampler, scales.KARLO_UPSAMPLER_64_256, 0.691),
        (presets.build_decoder, scales.PAPER_DECODER, 3.5),
        (presets.build_upsampler, scales.PAPER_UPSAMPLER_64_256, 0.730),  # labelled 0.7
        (presets.build_upsampler, scales.PAPER_UPSAMPLER_256_1024, 0.282),  # labelled 0.3
    ],
)
def test_parameters_are_the_published_ones(build, config, label):
    assert billions(made(build, config)) == pytest.approx(label, rel=0.03)


@pytest.mark.parametrize(
    ("config", "expected"),
    [(scales.PAPER_UPSAMPLER_64_256, 0.691), (scales.PAPER_UPSAMPLER_256_1024, 0.267)],
)
def test_upsamplers_without_scale_and_shift(config, expected):
    unet = config.unet.model_copy(update={"scale_shift": False})
    model = made(presets.build_upsampler, config.model_copy(update={"unet": unet}))
    assert billions(model) == pytest.approx(expected, rel=0.03)


def test_the_paper_decoders_u_net_has_its_size():
    assert billions(made(presets.build_decoder, scales.PAPER_DECODER).unet) == pytest.approx(
        2.238, rel=0.03
    )


def test_the_paper_prior_is_its_blocks_and_a_table_of_tokens():
    prior = made(presets.build_prior, scales.PAPER_PRIOR)
    assert billions(prior.blocks) == pytest.approx(24 * 12 * 2048**2 / 1e9, rel=0.01)
    rest = billions(prior) - billions(prior.text_encoder)
    assert rest == pytest.approx(1.223, rel=0.03)


def test_the_paper_autoregressive_prior_is_two_transformers():
    prior = made(
        presets.build_autoregressive_prior,
        scales.PAPER_AUTOREGRESSIVE_PRIOR,
        scales.PAPER_NUM_COMPONENTS,
    )
    assert billions(prior.text_encoder.blocks) == pytest.approx(1.21, rel=0.03)
    assert billions(prior.blocks) == pytest.approx(0.80, rel=0.03)
    assert prior.positions.shape[1] == 383  # Table 3's context of 384, whose last code is not read


def giga_flops(model, *inputs):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() / 1e9


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("config", "context", "expected"),
    [(scales.KARLO_PRIOR, 77, 164), (scales.PAPER_PRIOR, 256, 643)],
)
def test_operations_of_the_priors(config, context, expected):
    prior = made(presets.build_prior, config)
    dim, width = config.clip.embed_dim, prior.text_proj.in_features
    inputs = (meta(1, dim), meta(1, dtype=torch.long), meta(1, dim), meta(1, context, width))
    found = giga_flops(prior, *inputs, meta(1, context, dtype=torch.bool))
    assert found + giga_flops_not_computed(config, context) == pytest.approx(expected, rel=0.03)
    assert found < expected


def giga_flops_not_computed(config, context):
    """What a last block that updates every token would do beyond one that updates the query.

    Per other token: its query and output projections, its MLP of four times the width, and its
    row of the attention's two products.
    """
    others, width = context + 3, config.width
    return others * (2 * 2 * width**2 + 2 * 8 * width**2 + 2 * 2 * (others + 1) * width) / 1e9


@pytest.mark.parametrize(
    ("config", "expected"), [(scales.KARLO_DECODER, 608), (scales.PAPER_DECODER, 1530)]
)
def test_operations_of_the_decoders(config, expected):
    unet = made(presets.build_decoder, config).unet
    context = meta(1, 81, config.context_width)
    inputs = (meta(1, 3, 64, 64), meta(1, dtype=torch.long), None, context)
    assert giga_flops(unet, *inputs) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("config", "crop_px", "expected"),
    [
        (scales.PAPER_UPSAMPLER_64_256, 64, 531),
        (scales.PAPER_UPSAMPLER_64_256, 256, 8497),
        (scales.PAPER_UPSAMPLER_256_1024, 256, 1240),
        (scales.PAPER_UPSAMPLER_256_1024, 1024, 19_832),
    ],
)
def test_operations_of_the_upsamplers(config, crop_px, expected):
    model = made(presets.build_upsampler, config)
    low = crop_px * config.low_px // config.high_px
    inputs = (meta(1, 3, crop_px, crop_px), meta(1, dtype=torch.long), meta(1, 3, low, low))
    assert giga_flops(model, *inputs) == pytest.approx(expected, rel=0.03)
