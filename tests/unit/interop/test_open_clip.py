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


def test_a_runs_own_weights_become_the_stage_clip(bridge, theirs, tmp_path):
    from pipeline.generation.weights import read_published
    from pipeline.models.config import OpenClipConfig
    from tests.synthetic import publish

    model, path = theirs
    config = OpenClipConfig(model="tiny-test", weights_path=str(path))
    checked = []
    output = bridge.import_stage(config, str(tmp_path), checked.append)
    assert [found.embed_dim for found in checked] == [32]
    publish(str(tmp_path), "clip", output.content)
    # As generation reads a CLIP that was trained here.
    assert set(read_published(str(tmp_path), "clip").state) == set(model.state_dict())

    def refuse(found):
        raise ValueError("another width")

    with pytest.raises(ConfigError, match=r"open_clip\.model=tiny-test: another width"):
        bridge.import_stage(config, str(tmp_path), refuse)


def test_our_square_is_what_open_clip_shows_its_models(bridge):
    import numpy as np
    from PIL import Image

    from pipeline.draws import generator
    from pipeline.shards.clip_encoder import open_clip_square

    coarse = generator(0, "picture", 0).integers(0, 256, (9, 12, 3), np.uint8)
    for size in ((300, 200), (211, 400), (64, 64)):
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        transform = bridge.open_clip.image_transform(
            64, is_train=False, mean=(0,) * 3, std=(1,) * 3
        )
        theirs = transform(image).permute(1, 2, 0).numpy() * 255
        difference = np.abs(open_clip_square(image, 64).astype(float) - theirs)
        assert difference.max() < 1.01
        assert difference.mean() < 0.1


def test_published_architectures_have_their_dimensions(bridge):
    config = bridge.clip_config("ViT-H-14")
    assert (config.embed_dim, config.vision.heads, config.text.width) == (1024, 16, 1024)
    assert bridge.clip_config("ViT-L-14-quickgelu").quick_gelu


@pytest.mark.parametrize(
    ("name", "widest", "head", "norm_eps"),
    [
        ("convnext_base_w", 1024, "linear", 1e-6),
        ("convnext_large_d", 1536, "mlp", 1e-6),
        ("convnext_xxlarge", 3072, "linear", 1e-5),
    ],
)
def test_published_convolutional_clips_are_known(bridge, name, widest, head, norm_eps):
    vision = bridge.clip_config(name).vision
    assert (vision.widths[-1], vision.head, vision.norm_eps) == (widest, head, norm_eps)


@pytest.mark.parametrize("proj", ["linear", "mlp"])
def test_a_convolutional_clip_comes_and_goes_unchanged(bridge, tmp_path, proj):
    from pipeline.generation.weights import read_published
    from pipeline.interop import open_clip_folder
    from pipeline.models.config import OpenClipConfig
    from tests.synthetic import publish

    name = f"tiny-convnext-{proj}"
    vision = {"timm_model_name": "convnext_tiny", "timm_pool": "", "timm_proj": proj}
    bridge.open_clip.factory._MODEL_CONFIGS[name] = {
        "embed_dim": 16,
        "vision_cfg": vision | {"timm_drop_path": 0.1, "image_size": 64},
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = bridge.open_clip.create_model(name).eval()
    for parameter in model.visual.parameters():  # their layer scale of 1e-6 hides every block
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    ours = bridge.load_open_clip(name, tmp_path / "clip.pt").eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    normalised = (images * 0.5 + 0.5 - ours.mean) / ours.std
    with torch.no_grad():
        theirs = model.encode_image(normalised)
        torch.testing.assert_close(ours.encode_image(images), theirs, atol=1e-5, rtol=1e-5)
    assert theirs.std() > 1e-3

    config = OpenClipConfig(model=name, weights_path=str(tmp_path / "clip.pt"))
    output = bridge.import_stage(config, str(tmp_path / "stage"), lambda found: None)
    publish(str(tmp_path / "stage"), "clip", output.content)
    found = read_published(str(tmp_path / "stage"), "clip")
    open_clip_folder.export(found, str(tmp_path / "folder"))
    again = bridge.open_clip.create_model(f"local-dir:{tmp_path / 'folder'}").eval()
    with torch.no_grad():
        assert torch.equal(again.encode_image(normalised), theirs)


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


def test_an_exported_clip_is_opened_by_open_clip_and_comes_back(bridge, theirs, tmp_path):
    from pipeline.generation.weights import read_published
    from pipeline.interop import open_clip_folder
    from pipeline.models.config import OpenClipConfig
    from tests.synthetic import publish

    model, path = theirs
    config = OpenClipConfig(model="tiny-test", weights_path=str(path))
    output = bridge.import_stage(config, str(tmp_path / "clip"), lambda found: None)
    publish(str(tmp_path / "clip"), "clip", output.content)
    folder = tmp_path / "folder"
    found = read_published(str(tmp_path / "clip"), "clip")
    line = open_clip_folder.export(found, str(folder))
    assert line == {"models": {"clip": found.sha256}}
    again = bridge.open_clip.create_model(f"local-dir:{folder}").eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(images), model.encode_image(images))
    weights = folder / open_clip_folder.WEIGHTS
    back = bridge.load_open_clip(f"local-dir:{folder}", weights)
    assert back.config == bridge.clip_config("tiny-test")
    assert all(torch.equal(t, found.state[n]) for n, t in back.state_dict().items())
    with pytest.raises(ConfigError, match="exists"):
        open_clip_folder.export(found, str(folder))
