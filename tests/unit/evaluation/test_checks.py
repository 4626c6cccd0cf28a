"""The tasks of the protocols, on a synthetic data set and an untrained stack."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import storage
from pipeline.errors import DataError
from pipeline.evaluation.held_out import HeldOutSource
from pipeline.evaluation.inversion_check import InvertHeldOut
from pipeline.evaluation.manipulation_check import Edit, ManipulateHeldOut, Settings, _moves
from pipeline.evaluation.prior_check import CAPTION, MEAN, DrawHeldOut
from pipeline.evaluation.sheets import Column, sheet
from pipeline.evaluation.upsampling_check import UpsampleHeldOut
from pipeline.evaluation.upsampling_features import EmbedUpsampled, read_features
from pipeline.generation.config import PriorSampling, Sampling, UpsamplerSampling
from pipeline.generation.run_stages import RunStages
from pipeline.models.config import LinearPriorConfig
from pipeline.models.presets import build_linear_prior
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from tests import tiny_stack
from tests.synthetic import DIM, make_curated, make_embedded, make_keep_list


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checks")


@pytest.fixture(scope="module")
def source(folder):
    curated = make_curated(folder)
    embedded = EmbeddedDataset(make_embedded(folder, curated), CuratedDataset(curated))
    keep = make_keep_list(folder, curated)
    return HeldOutSource(CuratedDataset(curated), embedded, keep, 12)


@pytest.fixture(scope="module")
def stack(folder):
    return tiny_stack.make_stack(folder / "stack")


def size_of(path):
    with Image.open(path) as image:
        return image.size


def drawn(source, stack, prior_uri, **settings):
    sampling = PriorSampling(num_steps=3, **settings)
    return DrawHeldOut(source, stack["clip"].uri, prior_uri, sampling, 1, 5, 1)()["cosines"]


def test_held_out_pairs_are_of_the_test_split_first(source):
    pairs = source.pairs()
    assert len(pairs.captions) == len(pairs.z_img) == len(pairs.z_txt) == 12
    test = [key for shard in range(6) for key in source.keep_list.keys(shard, "test")]
    asked = [key for _, keys in source.by_shard() for key in keys]
    assert asked[: len(test)] == test


def test_one_held_out_sample_is_too_few(source):
    few = HeldOutSource(source.curated, source.embedded, source.keep_list, 1)
    with pytest.raises(DataError, match="holds out 1 samples, a check needs 2"):
        few.pairs()


def test_the_caption_itself_and_the_mean_are_what_they_say(source, stack):
    caption, mean = (drawn(source, stack, arm) for arm in (CAPTION, MEAN))
    assert np.allclose(caption["z_txt"], 1, atol=1e-6)
    assert np.allclose(mean["centred"], 0, atol=1e-6)
    # z_txt is z_img with noise: it is nearer to its own picture than to others.
    assert np.mean(caption["z_img"]) > np.mean(caption["other"]) + 0.3


def test_draws_do_not_depend_on_the_batch_and_more_of_them_come_closer_to_the_caption(
    source, stack
):
    one = drawn(source, stack, stack["prior"].uri, num_candidates=1)
    again = DrawHeldOut(
        source,
        stack["clip"].uri,
        stack["prior"].uri,
        PriorSampling(num_steps=3, num_candidates=1),
        1,
        12,
        1,
    )()["cosines"]
    np.testing.assert_allclose(one["z_img"], again["z_img"], atol=1e-4)
    many = drawn(source, stack, stack["prior"].uri, num_candidates=8)
    assert many["z_img"] != one["z_img"]


def test_residuals_make_a_regression_draw(source, stack, folder):
    linear = build_linear_prior(LinearPriorConfig.model_validate({"clip": tiny_stack.CLIP_SHAPE}))
    task = {"type": "linear_prior", "model": {"clip": tiny_stack.CLIP_SHAPE}}
    inputs = {"clip": stack["clip"].manifest_hash}
    place = folder / "linear"
    uri = tiny_stack.train_result(place, "prior", linear, task, inputs, stated=True).uri
    plain = DrawHeldOut(source, stack["clip"].uri, uri, PriorSampling(), 1, 5, 1)
    # A prior that says zero: what it missed of a training sample is that sample's z_img.
    assert np.allclose(plain()["cosines"]["z_img"], 0)
    found = replace(plain, adds_residuals=True)()["cosines"]["z_img"]
    assert np.std(found) > 0.1


def inversion(source, stack, uri, folder):
    return InvertHeldOut(
        source, stack["clip"].uri, uri, (2, 10), 1, 5, 1, str(folder / "inversion.png")
    )()


def test_a_decoder_that_says_nothing_of_the_noise_inverts_exactly(source, stack, folder, tmp_path):
    """eps = 0 makes every DDIM move a scaling, which the way back undoes."""
    silent = tmp_path / "decoder" / "000000000000"
    silent.mkdir(parents=True)
    weights = f"{stack['decoder'].uri}/weights.safetensors"
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    state = load_file(weights)
    for name in ("unet.conv_out.weight", "unet.conv_out.bias"):
        state[name] = torch.zeros_like(state[name])
    save_file(state, str(silent / "weights.safetensors"), metadata)
    entry = {"name": "weights.safetensors"}
    entry["sha256"] = storage.sha256_of(str(silent / "weights.safetensors"))
    tiny_stack.publish(str(silent), "decoder", {"weights": entry})
    found = inversion(source, stack, str(silent), folder)
    for rows in found["round_trips"].values():
        assert max(rows["mae"]) == 0
        assert min(rows["psnr"]) > 58
    assert np.mean(found["other_noise"]["mae"]) > 10
    assert size_of(folder / "inversion.png") == (400, 18 + 12 * 100)


def test_an_inversion_measures_every_picture_with_every_number_of_steps(source, stack, folder):
    found = inversion(source, stack, stack["decoder"].uri, folder)
    assert set(found["round_trips"]) == {"2", "10"}
    for rows in [*found["round_trips"].values(), found["other_noise"]]:
        assert len(rows["psnr"]) == len(rows["mae"]) == 12
        assert np.isfinite(rows["psnr"]).all()


@pytest.mark.parametrize(("crops_per_side", "num_crops"), [(1, 1), (3, 9)])
def test_upsampled_pictures_have_features_beside_their_psnr(
    source, stack, tmp_path, crops_per_side, num_crops
):
    shard, keys = source.by_shard()[0]
    held_out = UpsampleHeldOut(
        stack["upsampler_8_16"].uri,
        UpsamplerSampling(num_steps=2),
        source.curated,
        shard,
        keys,
        seed=1,
        batch_size=4,
        threads=1,
    )
    features, pictures = tmp_path / "features.safetensors", tmp_path / "sheet.png"
    found = EmbedUpsampled(
        held_out, stack["clip"].uri, crops_per_side, str(features), str(pictures)
    )()
    plain = held_out()
    assert {name: found[name] for name in plain} == plain
    assert found["clip_px"] == 8
    sets = read_features(str(features))
    assert {rows.shape for rows in sets.values()} == {(len(keys), num_crops, DIM)}
    assert (sets["made"] != sets["bicubic"]).any()
    assert size_of(pictures)[0] == 4 * 260


def test_a_sheet_has_a_column_per_way_and_names_them():
    red, large = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    encoded = sheet([Column("a", red), Column("b", large)], 5, 16)
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.size == (2 * 20, 18 + 2 * 20)
        assert image.getpixel((3, 25)) == (255, 0, 0)
        assert image.getpixel((25, 25)) == (0, 0, 0)


def brightness(picture):
    """A judge of one attribute, which changes with any picture."""
    return {"grey": "light" if np.asarray(picture).mean() > 127 else "dark", "kind": None}


def manipulations(source, stack, judge, shown_uri=None, edits=None):
    keys = tuple(key for _, keys in source.by_shard() for key in keys)[:6]
    sampling = Sampling.model_validate({"upsamplers": [{"num_steps": 2}]})
    stages = RunStages(
        stack["clip"].uri, None, stack["decoder"].uri, (stack["upsampler_8_16"].uri,)
    )
    return ManipulateHeldOut(
        curated=source.curated,
        embedded=source.embedded,
        keys=keys,
        first=0,
        edits=edits or ((),) * len(keys),
        stages=stages,
        settings=Settings(sampling, 4, 1.0, (0.25, 0.5), (1, 6), 0, 1),
        judge=judge,
        shown_uri=shown_uri,
    )()


def test_manipulations_are_measured_for_every_picture_and_shown(source, stack, tmp_path):
    edit = [Edit("grey", old, "light", "a dark day", "a light day") for old in ("dark", "light")]
    edits = tuple((edit[row % 2],) for row in range(6))
    found = manipulations(source, stack, brightness, str(tmp_path), edits)
    assert found["interpolation"] == [0] * 6
    assert len(found["reconstruction"]["psnr"]) == 6
    for way in found["variations"].values():
        assert len(way["psnr"]) == len(way["kept"]["grey"]) == 6
        assert set(way["kept"]) == {"grey"}  # nothing was read of the kind
    assert set(found["edits"]) == {"grey"}
    for theta in found["edits"]["grey"].values():
        assert len(theta["moved"]) <= 6
        assert theta["others_kept"] == {}
    assert set(found["pca"]) == {"1 dimensions", "6 dimensions"}
    assert found["pca"]["6 dimensions"]["psnr"] == pytest.approx([58.9] * 6, abs=0.1)
    assert [len(each["kept"]["grey"]) for each in found["pca"].values()] == [6, 6]
    widths = {path.stem: size_of(path)[0] for path in tmp_path.glob("*.png")}
    assert widths == {
        "reconstructions and variations": 400,
        "interpolations": 300,
        "principal components": 300,
        "text differences, grey": 300,
    }


def test_without_a_judge_nothing_is_read(source, stack):
    found = manipulations(source, stack, None)
    assert found["edits"] == {}
    assert all(way["kept"] == {} for way in found["variations"].values())


def test_only_what_showed_the_old_value_can_move():
    edits = [Edit("colour", "red", "blue", "", "")] * 3
    before = [
        {"colour": "red", "ground": "grey"},
        {"colour": "green", "ground": "grey"},
        {"colour": "red", "ground": None},
    ]
    after = [
        {"colour": "blue", "ground": "black"},
        {"colour": "blue", "ground": "grey"},
        {"colour": None, "ground": None},
    ]
    found = _moves(edits, before, {"theta 0.50": after})["theta 0.50"]
    assert found == {"moved": [True, False], "others_kept": {"ground": [False]}}
