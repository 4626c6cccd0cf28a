import json
from pathlib import Path

import pytest

from pipeline.chain.run import check_output_dir
from pipeline.chain.stages import foreign_hashes, stages
from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.run_file import RunFile

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


def test_a_changed_file_of_prompts_makes_another_generation(tmp_path):
    prompts = tmp_path / "prompts.txt"
    run = demo_in(tmp_path / "run", f"generate.prompts={{type: file, path: {prompts}}}")
    prompts.write_text("a cat\n")
    before = foreign_hashes(run)
    prompts.write_text("\na cat \n")
    assert foreign_hashes(run) == before
    prompts.write_text("a dog\n")
    assert foreign_hashes(run)["prompts"] != before["prompts"]
    generate = next(stage for stage in stages(run) if stage.name == "generate")
    assert "prompts" in generate.inputs
