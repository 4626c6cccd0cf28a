"""Pictures beside a run: refused before Ray starts, made once, found by other jobs."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import generate
from jobs.command import run_job
from pipeline import storage
from pipeline.chain.generation import generate_apart
from pipeline.errors import CheckpointError, ConfigError
from pipeline.generation.unclip import UnCLIP
from pipeline.progress import Progress
from pipeline.rating.systems import read_system
from pipeline.run_file import RunFile
from tests import tiny_stack

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
GENERATE = {
    "prompts": {"type": "inline", "texts": ["a red circle"]},
    "num_pictures": 3,
    "seed": 2,
    "upsamplers": [],
    "ablations": {"num_pictures": 0},
    "decoder": {"num_steps": 3},
}


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return tiny_stack.make_run(tmp_path_factory.mktemp("run"))


def run_of(uri, **sections):
    models = {"format": "diffusers", "path": "x", "models": ["clip", "prior", "decoder"]}
    values = {"name": "tiny", "output_dir": uri, "imported": models, **sections}
    return RunFile.model_validate(values)


def test_prompts_of_the_command_line_become_the_librarys_pictures_once(run_uri, tmp_path):
    texts, out = ["a red circle", "a blue square"], str(tmp_path / "out")
    line = generate_apart(run_of(run_uri), None, texts, out, Progress())
    expected = UnCLIP.from_run(run_uri, device="cpu")(texts, seed=0)
    for path, image, text in zip(line["pictures"], expected, texts, strict=True):
        found = Image.open(path)
        pixels = zip(found.tobytes(), image.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pixels) <= 1
        assert (found.text["Prompt"], found.text["Generated"]) == (text, "true")
    before = {path: path.stat().st_mtime_ns for path in Path(line["shards"]).rglob("*.*")}
    assert generate_apart(run_of(run_uri), None, texts, out, Progress()) == line
    assert {path: path.stat().st_mtime_ns for path in before} == before, "made again"
    assert list(read_system(out).captions.values()) == texts


def mixed(run_uri, folder):
    """A run whose prior stands on another CLIP."""
    shutil.copytree(run_uri, folder)
    other = tiny_stack.make_run(folder / "other", seed=1)
    index = json.loads((folder / "run.json").read_text())
    index["stages"]["prior"] = f"other/{storage.read_json(other + '/run.json')['stages']['prior']}"
    (folder / "run.json").write_text(json.dumps(index))
    return str(folder)


def without_decoder(run_uri, folder):
    shutil.copytree(run_uri, folder)
    index = json.loads((folder / "run.json").read_text())
    del index["stages"]["decoder"]
    (folder / "run.json").write_text(json.dumps(index))
    return str(folder)


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (mixed, CheckpointError, "was trained on CLIP .*its embeddings mean nothing"),
        (without_decoder, ConfigError, "no finished decoder: finish the run"),
    ],
)
def test_models_that_do_not_belong_together_are_refused(run_uri, tmp_path, spoil, error, reason):
    run = run_of(spoil(run_uri, tmp_path / "spoilt"))
    with pytest.raises(error, match=reason):
        generate_apart(run, None, ["a red circle"], str(tmp_path / "out"), Progress())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("texts", "sections", "reason"),
    [
        ([], {}, "no section generate; give prompts with --prompt"),
        ([" "], {}, "prompt 0 is empty"),
        (["fine", "word " * 80], {}, "prompt 1 .* longer than"),
        ([], {"generate": GENERATE | {"prompts": {"type": "file", "path": "no"}}}, "cannot read"),
    ],
)
def test_bad_prompts_are_refused(run_uri, tmp_path, texts, sections, reason):
    with pytest.raises(ConfigError, match=reason):
        run = run_of(run_uri, **sections)
        generate_apart(run, None, texts, str(tmp_path / "out"), Progress())
    assert not (tmp_path / "out").exists()


def test_a_dry_run_checks_and_writes_nothing(run_uri, tmp_path):
    path = str(tmp_path / "prompts.parquet")
    pq.write_table(pa.table({"text": ["one", "two", "three"]}), path)
    table = {"type": "parquet", "path": path, "column": "text"}
    run = run_of(run_uri, generate=GENERATE | {"prompts": table})
    out = str(tmp_path / "out")
    line = generate_apart(run, None, [], out, Progress(), dry_run=True)
    assert line["num_pictures"] == 3
    assert line["shards"].startswith(f"{out}/generate/")
    other = run_of(run_uri, generate=GENERATE | {"prompts": table, "seed": 3})
    again = generate_apart(other, None, [], out, Progress(), dry_run=True)
    assert again["shards"] != line["shards"]
    assert not (tmp_path / "out").exists()


def test_a_place_is_needed(capsys):
    asked = ["--config", "jobs/configs/demo/run.yaml", "--prompt", "a red circle"]
    instead = generate.generate
    assert run_job("", lambda *_: [], generate.add_options, asked, instead=instead) == 2
    assert "say where with --output" in capsys.readouterr().err
