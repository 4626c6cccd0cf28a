import math

import pytest
import torch
from pydantic import ValidationError

from pipeline.models.clip import ClipModel
from pipeline.models.config import ClipConfig, TextTowerConfig, VisionTowerConfig
from pipeline.models.tokenizer import tokenizer


def tiny_config(**changes):
    return ClipConfig(
        embed_dim=16,
        vision=VisionTowerConfig(image_px=16, patch_px=8, width=32, layers=2, heads=2),
        text=TextTowerConfig(width=16, layers=2, heads=2),
        **changes,
    )


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return ClipModel(tiny_config()).eval()


def tokens(*captions):
    return torch.from_numpy(tokenizer()(list(captions)))


def test_embeddings_have_the_joint_dimension_and_are_raw(clip):
    with torch.no_grad():
        z_img = clip.encode_image(torch.rand(3, 3, 16, 16) * 2 - 1)
        z_txt, _ = clip.encode_text(tokens("a red circle", "", "a star"))
    assert z_img.shape == z_txt.shape == (3, 16)
    assert not torch.allclose(z_img.norm(dim=-1), torch.ones(3), atol=1e-2)


def test_cutting_padding_changes_no_caption(clip):
    batch = tokens("a red circle", "a small blue square on a plain grey background")
    with torch.no_grad():
        together, states = clip.encode_text(batch)
        alone, alone_states = clip.encode_text(batch[:1])
    assert states.shape[1] > alone_states.shape[1] == 5
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(states[:1, :5], alone_states, atol=1e-5, rtol=0)


def test_states_do_not_see_later_tokens(clip):
    with torch.no_grad():
        _, one = clip.encode_text(tokens("a red circle"))
        _, other = clip.encode_text(tokens("a red star"))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


def test_the_embedding_is_read_at_the_end_mark(clip):
    with torch.no_grad():
        z_txt, states = clip.encode_text(tokens("a red circle", "a small star on grey"))
    torch.testing.assert_close(z_txt[0], states[0, 4] @ clip.text_projection)


def test_pictures_are_normalised_to_clips_statistics(clip):
    seen = []
    handle = clip.visual.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        clip.encode_image(torch.ones(1, 3, 16, 16))
    handle.remove()
    expected = torch.tensor([(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258])
    torch.testing.assert_close(seen[0][0, :2, 0, 0], expected)


def test_temperature_starts_at_the_papers_value_and_is_clipped(clip):
    fresh = ClipModel(tiny_config())
    assert fresh.temperature().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        fresh.logit_scale.fill_(math.log(1000))
    assert fresh.temperature().item() == pytest.approx(100)


def test_quick_gelu_changes_the_function_only():
    torch.manual_seed(0)
    exact = ClipModel(tiny_config()).eval()
    quick = ClipModel(tiny_config(quick_gelu=True)).eval()
    quick.load_state_dict(exact.state_dict())
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(exact.encode_image(images), quick.encode_image(images))


def test_patches_must_tile_the_picture():
    with pytest.raises(ValidationError, match="image_px=17 is not a multiple of patch_px=8"):
        VisionTowerConfig(image_px=17, patch_px=8, width=32, layers=1, heads=2)
