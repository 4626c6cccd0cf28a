import json
from pathlib import Path

import pytest

from pipeline.chain import given
from pipeline.chain.plan import check_output_dir, run_config
from pipeline.chain.stages import stages
from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.run_file import RunFile
from tests.foreign_shards import write_img2dataset

DEMO = Path(__file__).resolve().parents[3] / "jobs/configs/demo/run.yaml"


def demo_in(folder, *overrides):
    return load_run(RunFile, DEMO, [f"output_dir={folder}", *overrides])


@pytest.mark.parametrize("stages", [{}, {"queries": "queries/0123456789ab"}])
def test_another_runs_folder_is_refused_once_something_is_finished_there(tmp_path, stages):
    other = {"config": {"prior": {"seed": 7}}, "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(other))
    if not stages:
        check_output_dir(demo_in(tmp_path))
        return
    with pytest.raises(ConfigError, match="belongs to another run"):
        check_output_dir(demo_in(tmp_path))


def index_of(run, *finished):
    return {
        "config": run_config(run),
        "stages": {name: f"{name}/0123456789ab" for name in finished},
    }


@pytest.mark.parametrize(
    ("finished", "override", "is_refused"),
    [
        (["queries", "clip"], "decoder.samples=64", False),
        (["queries", "clip"], "generate.seed=2", False),
        (["queries", "clip"], "upsamplers.1.seed=2", False),
        (["queries", "clip"], "clip.seed=2", True),
        (["queries"], "candidates.seed=2", True),
        (["queries", "upsampler_16_64"], "upsamplers.1.seed=2", True),
    ],
)
def test_what_is_not_finished_may_change(tmp_path, finished, override, is_refused):
    index = index_of(demo_in(tmp_path), *finished)
    (tmp_path / "run.json").write_text(json.dumps(index))
    changed = demo_in(tmp_path, override)
    if is_refused:
        with pytest.raises(ConfigError, match="belongs to another run"):
            check_output_dir(changed)
    else:
        check_output_dir(changed)


def test_a_run_file_may_grow(tmp_path):
    whole = demo_in(tmp_path)
    index = index_of(whole, "queries", "balance")
    index["config"] |= dict.fromkeys(("clip", "decoder", "generate", "evaluate"))
    (tmp_path / "run.json").write_text(json.dumps(index))
    check_output_dir(whole)


def test_a_changed_file_of_prompts_makes_another_generation(tmp_path):
    prompts = tmp_path / "prompts.txt"
    run = demo_in(tmp_path / "run", f"generate.prompts={{type: file, path: {prompts}}}")
    prompts.write_text("a cat\n")
    before = given.hashes(run)
    prompts.write_text("\na cat \n")
    assert given.hashes(run) == before
    prompts.write_text("a dog\n")
    assert given.hashes(run)["prompts"] != before["prompts"]
    generate = next(stage for stage in stages(run) if stage.name == "generate")
    assert "prompts" in generate.inputs


def test_a_changed_block_list_makes_other_shards_and_no_list_changes_nothing(tmp_path):
    without, shards = demo_in(tmp_path / "run"), write_img2dataset(tmp_path / "shards")
    assert "block lists" not in given.hashes(without)
    blocked = tmp_path / "blocked.txt"
    run = demo_in(tmp_path / "run", f"curate.filters.block_lists=[{blocked}]")
    blocked.write_text("0123456789abcdef\n")
    before = given.hashes(run)
    blocked.write_text("# why\n0123456789ABCDEF\n")
    assert given.hashes(run) == before
    blocked.write_text("0123456789abcdee\n")
    assert given.hashes(run)["block lists"] != before["block lists"]
    for each, expected in ((run, True), (without, False)):
        curate = next(stage for stage in stages(each) if stage.name == "curate")
        assert ("block lists" in curate.inputs) is expected
    adopting = load_run(
        RunFile,
        DEMO.parents[1] / "real/webdataset.yaml",
        [f"adopt.path={shards}", f"adopt.filters={{min_side_px: 1, block_lists: [{blocked}]}}"],
    )
    assert given.hashes(adopting)["block lists"] == given.hashes(run)["block lists"]
    assert stages(adopting)[0].inputs == ("shards", "block lists")
    blocked.write_text("no hash\n")
    with pytest.raises(ConfigError, match="line 1: 'no hash' is no hash"):
        given.hashes(run)
