"""The files of infra/ name what exists, and parse where their own tools would parse them."""

import copy
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.config import load_run
from pipeline.run_file import RunFile

ROOT = Path(__file__).resolve().parents[1]
INFRA = ROOT / "infra"
YAML_FILES = sorted(INFRA.rglob("*.y*ml"))
SCRIPTS = [path for path in sorted(INFRA.rglob("*")) if path.suffix in (".sh", ".sbatch")]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_a_file_parses_and_its_head_says_how_to_use_it(path):
    assert list(yaml.safe_load_all(path.read_text()))
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_and_stops_at_the_first_error(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "set -euo pipefail" in path.read_text()


def test_every_command_in_infra_names_a_job_and_a_run_file():
    found = 0
    for path in [*YAML_FILES, *SCRIPTS]:
        for job, run_file in re.findall(
            r"-m (jobs\.\w+)(?: --config (\S+\.yaml))?", path.read_text()
        ):
            assert (ROOT / job.replace(".", "/")).with_suffix(".py").exists(), path.name
            if run_file:
                load_run(RunFile, ROOT / run_file)
            found += 1
    assert found >= 2


def test_ray_accepts_the_cluster_file_and_no_wrong_one():
    from ray.autoscaler._private.util import prepare_config, validate_config

    good = yaml.safe_load((INFRA / "ray/aws.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(good)))
    for wrong in ({"idle_minutes": 3}, {"head_node_type": "heda"}):
        with pytest.raises(Exception, match=r"idle_minutes|head_node_type"):
            validate_config(prepare_config({**copy.deepcopy(good), **wrong}))
