"""The job that changes pictures: every way from a run's folder, and what it refuses."""

import json
from pathlib import Path

import pytest
from PIL import Image

from jobs import manipulate
from pipeline import results, storage
from pipeline.chain.manipulate import manipulate_run
from pipeline.errors import ConfigError
from pipeline.generation import unclip
from pipeline.manipulation.asked import WAYS, from_options
from tests import tiny_stack
from tests.kept_run import make_run, said, without_ray
from tests.synthetic import DIM, sample_key
from tests.unit.manipulation.test_asked import PLAIN

ALL_WAYS = {
    "reconstruction": {},
    "variations": {"number": 2},
    "interpolation": {"number": 3},
    "text_difference": {"number": 3, "text": "a red circle"},
    "pca": {},
    "inpainting": {"mask": ["mask.png"], "text": "a red circle", "visits": 1},
}
COLUMNS = {
    "reconstruction": ["picture", "reconstruction"],
    "variations": ["picture", "reconstruction", "variation 1", "variation 2"],
    "interpolation": ["first", "theta 0.00", "theta 0.50", "theta 1.00", "second"],
    "text_difference": ["picture", "theta 0.00", "theta 0.25", "theta 0.50"],
    "pca": ["picture", *(f"{num} dimensions" for num in (1, 2, 4, DIM))],
    "inpainting": ["picture", "known", "inpainting"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manipulate")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        run = make_run(folder)
    stack = tiny_stack.make_stack(folder / "run")
    index = results.read_index(run.output_dir)
    base = run.output_dir + "/"
    index["stages"] |= {name: r.uri.removeprefix(base) for name, r in stack.items()}
    storage.write_json(storage.join(run.output_dir, results.INDEX), index)
    embedded = storage.join(run.output_dir, index["stages"]["embed"], results.MANIFEST)
    manifest = storage.read_json(embedded)
    manifest["content"]["clip_sha256"] = stack["clip"].content["weights"]["sha256"]
    storage.write_json(embedded, manifest)
    generate = tiny_stack.generate_config()
    return run.model_copy(update={"generate": generate})


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A picture and a mask of its right half, where the job is started."""
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").convert("RGB").resize((40, 40)).save("cat.png")
    mask = Image.new("L", (40, 40))
    mask.paste(255, (20, 0, 40, 40))
    mask.save("mask.png")
    return tmp_path


def made(run, way, output="out", *, dry_run=False, **options):
    asked = from_options({**PLAIN, "way": way, "steps": 3, **ALL_WAYS[way], **options})
    return manipulate_run(run, asked, output, said(), dry_run=dry_run)


def opened(path):
    with Image.open(path) as image:
        return image.copy()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_writes_a_grid_its_settings_and_every_picture(run, files, way):
    given = {"picture": ["cat.png"]}
    given |= {} if way == "inpainting" else {"key": [sample_key(3)], "held_out": 2}
    line = made(run, way, **given)
    assert line["columns"] == COLUMNS[way]
    rows = {"inpainting": 1, "interpolation": 2}.get(way, 4)
    with Image.open("out/grid.png") as grid:
        assert grid.height == 18 + rows * 118
        assert grid.width >= 100 * len(COLUMNS[way])  # more where a row's line is longer
    settings = json.loads(Path("out/settings.json").read_text())
    assert settings["steps"] == 3
    assert set(settings["models"]) == {"clip", "prior", "decoder", "upsampler_8_16"}
    assert settings["sampling"]["decoder"]["guidance_scale"] == 2.0
    assert len(settings["rows"]) == rows
    files = sorted(Path("out/pictures").iterdir())
    assert len(files) == rows * len(COLUMNS[way])
    with Image.open(files[-1]) as last:
        assert last.size == (16, 16)
        assert last.info["Manipulation"] == way
        assert last.info["Generated"] == "true"


def test_known_pixels_come_back_unchanged_and_the_same_seed_gives_the_same(run, files):
    for output in ("one", "two"):
        made(run, "inpainting", output)
    given, _, painted = (opened(path) for path in sorted(Path("one/pictures").iterdir()))
    left, right = (0, 0, 8, 16), (8, 0, 16, 16)
    assert painted.crop(left).tobytes() == given.crop(left).tobytes()
    assert painted.crop(right).tobytes() != given.crop(right).tobytes()
    assert Path("one/grid.png").read_bytes() == Path("two/grid.png").read_bytes()
    made(run, "inpainting", "other", seed=1)
    assert Path("one/grid.png").read_bytes() != Path("other/grid.png").read_bytes()


def test_a_dry_run_checks_and_writes_nothing(run, files):
    line = made(run, "inpainting", dry_run=True)
    assert line == {"output": "out", "way": "inpainting", "pictures": ["cat.png"]}
    assert not Path("out").exists()


def wrong_size():
    Image.new("L", (30, 30), 255).save("mask.png")


def no_picture():
    Path("cat.png").write_text("text")


@pytest.mark.parametrize(
    ("way", "options", "spoil", "words"),
    [
        ("reconstruction", {}, no_picture, "--picture cat.png: decode_error"),
        ("reconstruction", {"key": ["nobody"]}, None, "--key nobody"),
        ("reconstruction", {"held_out": 200}, None, "holds out"),
        ("inpainting", {}, wrong_size, "--mask mask.png is 30 x 30 px"),
        ("pca", {"dimensions": [7]}, None, "--dimensions 7: this run's embeddings have 6"),
        ("text_difference", {"text": "word " * 200}, None, "longer than"),
        ("text_difference", {"base": "a\x00b"}, None, "control"),
    ],
)
def test_what_is_wrong_is_refused_before_a_model_is_loaded(
    run, files, monkeypatch, way, options, spoil, words
):
    monkeypatch.setattr(unclip, "load_stack", lambda *_: pytest.fail("a model was loaded"))
    if spoil:
        spoil()
    with pytest.raises(ConfigError) as error:
        made(run, way, **options)
    assert words in str(error.value)
    assert not Path("out").exists()


def test_a_folder_that_exists_and_a_run_without_models_are_refused(run, files):
    Path("out").mkdir()
    with pytest.raises(ConfigError, match="out exists; name a new folder"):
        made(run, "reconstruction")
    elsewhere = run.model_copy(update={"output_dir": str(files)})
    with pytest.raises(ConfigError, match=r"run\.json does not exist"):
        made(elsewhere, "reconstruction", "new")


def test_embeddings_of_another_clip_have_no_components_of_this_one(run, files):
    index = results.read_index(run.output_dir)
    where = storage.join(run.output_dir, index["stages"]["embed"], results.MANIFEST)
    manifest = storage.read_json(where)
    other = {**manifest, "content": {**manifest["content"], "clip_sha256": "c" * 64}}
    storage.write_json(where, other)
    try:
        with pytest.raises(ConfigError, match="embedded by another CLIP, cccccccccccc"):
            made(run, "pca")
    finally:
        storage.write_json(where, manifest)


def test_the_command_line_has_every_option_that_is_read():
    import argparse

    parser = argparse.ArgumentParser()
    manipulate.add_options(parser)
    options = parser.parse_args(["variations", "--output", "out", "--picture", "cat.png"])
    assert from_options(vars(options)).pictures == ("cat.png",)
    assert set(PLAIN) <= set(vars(options))
