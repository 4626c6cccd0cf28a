import pytest
import torch

from pipeline import weights_file
from pipeline.errors import CheckpointError
from pipeline.models import presets
from pipeline.models.config import ClipShape, PriorConfig

CONFIG = PriorConfig(clip=ClipShape(embed_dim=8, text_width=8), width=16, layers=1, head_width=8)


def publish(path, config=CONFIG):
    model = presets.build_prior(config)
    model.set_statistics(torch.ones(8), torch.full((8,), 3.0))
    dump = {"model": config.model_dump(mode="json")}
    weights_file.export_weights(str(path), model.state_dict(), dump, "prior")
    return model


def test_published_weights_build_the_same_model(tmp_path):
    model = publish(tmp_path / "prior.safetensors")
    loaded = presets.load_prior(str(tmp_path / "prior.safetensors"))
    assert loaded.config == CONFIG
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_weights_of_another_kind_are_refused(tmp_path):
    publish(tmp_path / "prior.safetensors")
    with pytest.raises(CheckpointError, match=r"prior\.safetensors"):
        presets.load_decoder(str(tmp_path / "prior.safetensors"))


@pytest.mark.parametrize(
    ("build", "config", "millions"),
    [
        (presets.build_clip, presets.DEMO_CLIP, 3.69),
        (presets.build_prior, presets.DEMO_PRIOR, 0.870),
        (presets.build_decoder, presets.DEMO_DECODER, 0.882),
        (presets.build_upsampler, presets.DEMO_UPSAMPLER_16_64, 0.192),
        (presets.build_upsampler, presets.DEMO_UPSAMPLER_64_256, 0.184),
    ],
)
def test_demo_presets_have_the_stated_size(build, config, millions):
    with torch.device("meta"):
        model = build(config)
    assert presets.num_parameters(model) == pytest.approx(millions * 1e6, rel=0.01)


def test_demo_presets_fit_together():
    shape = presets.clip_shape(presets.DEMO_CLIP)
    assert presets.DEMO_PRIOR.clip == presets.DEMO_DECODER.clip == shape
    assert presets.DEMO_CLIP.text.width == presets.DEMO_CLIP.embed_dim
    assert presets.DEMO_DECODER.image_px == presets.DEMO_UPSAMPLER_16_64.low_px
    assert presets.DEMO_UPSAMPLER_16_64.high_px == presets.DEMO_UPSAMPLER_64_256.low_px
