import warnings

import pytest
import torch

from pipeline.errors import CheckpointError, ConfigError
from pipeline.models.presets import load_clip
from pipeline.models.tokenizer import tokenizer

pytestmark = pytest.mark.slow  # importing open_clip takes ten seconds


@pytest.fixture(scope="module")
def bridge():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of open_clip's own imports
        from pipeline.interop import open_clip as ours
    return ours


@pytest.fixture(scope="module")
def theirs(bridge, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.manual_seed(0)
    model = bridge.open_clip.model.CLIP(
        32,
        {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        {"width": 32, "heads": 2, "layers": 2},
        quick_gelu=True,
    ).eval()
    torch.save(model.state_dict(), path)
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "patch_size": 8,
            "head_width": 32,
        },
        "text_cfg": {"width": 32, "heads": 2, "layers": 2},
        "quick_gelu": True,
    }
    bridge.open_clip.factory._MODEL_CONFIGS["tiny-test"] = config
    yield model, path
    del bridge.open_clip.factory._MODEL_CONFIGS["tiny-test"]


def test_embeddings_equal_open_clips(bridge, theirs):
    model, path = theirs
    ours = bridge.load_open_clip("tiny-test", path).eval()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    tokens = torch.from_numpy(tokenizer()(["a red circle", "", "two blue squares on grey"]))
    normalised = (images * 0.5 + 0.5 - ours.mean) / ours.std
    with torch.no_grad():
        torch.testing.assert_close(
            ours.encode_image(images), model.encode_image(normalised), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            ours.encode_text(tokens)[0], model.encode_text(tokens), atol=1e-5, rtol=0
        )


def test_state_dict_keys_equal_open_clips(bridge, theirs):
    model, path = theirs
    assert set(bridge.load_open_clip("tiny-test", path).state_dict()) == set(model.state_dict())


def test_imported_weights_are_read_back(bridge, theirs, tmp_path):
    _, path = theirs
    target = str(tmp_path / "clip.safetensors")
    config = bridge.import_open_clip("tiny-test", path, target)
    assert load_clip(target).config == config
    assert config.quick_gelu


def test_published_architectures_have_their_dimensions(bridge):
    config = bridge.clip_config("ViT-H-14")
    assert (config.embed_dim, config.vision.heads, config.text.width) == (1024, 16, 1024)
    assert bridge.clip_config("ViT-L-14-quickgelu").quick_gelu


@pytest.mark.parametrize("name", ["RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP", "no-such-model"])
def test_architectures_beyond_ours_are_refused(bridge, name):
    with pytest.raises(ConfigError):
        bridge.clip_config(name)


def test_weights_of_another_architecture_are_refused(bridge, theirs, monkeypatch):
    _, path = theirs
    config = bridge.open_clip.get_model_config("tiny-test")
    wider = config | {"text_cfg": config["text_cfg"] | {"width": 64}}
    monkeypatch.setitem(bridge.open_clip.factory._MODEL_CONFIGS, "tiny-wider", wider)
    with pytest.raises(CheckpointError, match="tiny-wider"):
        bridge.load_open_clip("tiny-wider", path)


def test_missing_file_is_refused(bridge, theirs, tmp_path):
    with pytest.raises(ConfigError, match="no such weights file"):
        bridge.load_open_clip("tiny-test", tmp_path / "none.pt")
