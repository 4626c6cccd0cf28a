import pytest
import torch
from pydantic import ValidationError

from pipeline.config import checked
from pipeline.errors import ConfigError
from pipeline.models.config import ClipConfig, ConvNextTowerConfig
from pipeline.models.convnext import ChannelNorm, ConvNextTower
from pipeline.models.layers import keep_only_inputs
from pipeline.models.presets import BLOCKS, build_clip

VISION = {"type": "convnext", "image_px": 32, "widths": [8, 16], "depths": [1, 2]}


def clip(**changes):
    text = {"width": 8, "layers": 1, "heads": 1}
    return {"embed_dim": 8, "vision": {**VISION, **changes}, "text": text}


def test_embeddings_have_the_joint_dimension_and_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    model = build_clip(ClipConfig.model_validate(clip(layer_scale=1.0))).eval()
    pictures = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        together = model.encode_image(pictures)
        alone = model.encode_image(pictures[1:2])
    assert together.shape == (3, 8)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-6)


def test_a_fresh_block_is_nearly_the_identity_until_its_scale_grows():
    torch.manual_seed(0)
    tower = ConvNextTower(ConvNextTowerConfig.model_validate(VISION), 8)
    block = tower.trunk.stages[0].blocks[0]
    x = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        assert (block(x) - x).abs().max() < 1e-4
        block.gamma.fill_(1.0)
        assert (block(x) - x).abs().max() > 1e-2


def test_channels_of_each_place_are_normalised():
    x = torch.randn(2, 8, 3, 4) * 5 + 2
    normed = ChannelNorm(8, 1e-6)(x)
    torch.testing.assert_close(normed.mean(dim=1), torch.zeros(2, 3, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(normed.std(dim=1, correction=0), torch.ones(2, 3, 4))


def test_every_block_is_one_that_checkpointing_and_sharding_know():
    model = build_clip(ClipConfig.model_validate(clip()))
    assert keep_only_inputs(model.visual, BLOCKS) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": [1]}, "widths=[8, 16] and depths=[1]"),
        ({"image_px": 36}, "image_px=36 is not a multiple of 8"),
        ({"type": "resnet"}, "vision.type='resnet'"),
        ({"heads": 2}, "unknown key vision.heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        checked(ClipConfig, clip(**changes), "run.yaml")
    assert words in str(caught.value)


def test_a_vision_transformer_needs_no_type():
    vision = {"image_px": 16, "patch_px": 8, "width": 8, "layers": 1, "heads": 1}
    config = ClipConfig.model_validate({**clip(), "vision": vision})
    assert config.model_dump()["vision"] == {**vision, "mlp_ratio": 4.0}
    with pytest.raises(ValidationError):
        ClipConfig.model_validate({**clip(), "vision": {**vision, "widths": [8]}})
