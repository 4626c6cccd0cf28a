import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import ConfigError
from pipeline.models.clip import ClipModel
from pipeline.models.config import ClipConfig, TextTowerConfig, VisionTowerConfig
from pipeline.models.tokenizer import tokenizer
from pipeline.models.zero_shot import class_embeddings, zero_shot


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    config = ClipConfig(
        embed_dim=16,
        vision=VisionTowerConfig(image_px=16, patch_px=8, width=32, layers=1, heads=2),
        text=TextTowerConfig(width=16, layers=1, heads=2),
    )
    return ClipModel(config).eval()


def test_a_class_is_the_normalised_mean_of_its_prompts(clip):
    templates = ("a {}.", "one {} on grey")
    found = class_embeddings(clip, ["circle", "star"], templates)
    tokens = torch.from_numpy(tokenizer()(["a star.", "one star on grey"]))
    with torch.no_grad():
        z_txt = F.normalize(clip.encode_text(tokens)[0], dim=-1)
    torch.testing.assert_close(found[1], F.normalize(z_txt.mean(dim=0), dim=-1))


def test_probabilities_are_the_softmax_of_scaled_cosines(clip):
    classes = class_embeddings(clip, ["circle", "square", "star"])
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = zero_shot(clip, images, classes)
    with torch.no_grad():
        cosines = F.normalize(clip.encode_image(images), dim=-1) @ classes.T
        expected = (clip.temperature() * cosines).softmax(dim=-1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(4))


def test_a_picture_whose_embedding_is_a_class_is_of_that_class(clip):
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        own = F.normalize(clip.encode_image(images), dim=-1)
    assert zero_shot(clip, images, own).argmax(dim=-1).tolist() == [0, 1, 2]


def test_a_template_without_a_place_is_refused(clip):
    with pytest.raises(ConfigError, match="needs exactly one"):
        class_embeddings(clip, ["circle"], ("a picture",))
