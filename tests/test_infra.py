"""The files of infra/ name what exists, and parse where their own tools would parse them."""

import copy
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.config import load_run
from pipeline.run_file import RunFile
from tests.infra.policy import SECRETS

ROOT = Path(__file__).resolve().parents[1]
INFRA = ROOT / "infra"
YAML_FILES = sorted(INFRA.rglob("*.y*ml"))
README = (INFRA / "README.md").read_text()
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


def test_the_readme_names_every_file():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=INFRA, capture_output=True, text=True, check=True
    )
    files = set(listed.stdout.split()) - {"README.md"}
    assert {file for file in files if f"`{file}`" not in README} == set()
    named = re.findall(
        r"`(?:infra/)?((?:docker|kuberay|mlflow|monitoring|ray|slurm)/[\w/.-]+)`", README
    )
    assert [file for file in named if not (INFRA / file).exists()] == []


def test_the_readme_has_every_secret_and_every_variable_that_a_script_reads():
    for secret, keys in SECRETS.items():
        assert f"create secret generic {secret} " in README
        for key in keys:
            assert f"--from-literal={key}=" in README, secret
    for path in SCRIPTS:
        for name in re.findall(r"\$\{([A-Z_]+):-", path.read_text()):
            assert f"`{name}`" in README, path.name


def nodes_without_a_token(cluster):
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    return [command for command in starts if "RAY_AUTH_MODE=token" not in command.split()]


def test_every_node_on_aws_asks_for_the_token_and_has_an_image_of_its_own():
    """Ray's default image has no Python for the lock."""
    cluster = yaml.safe_load((INFRA / "ray/aws.yaml").read_text())
    assert nodes_without_a_token(cluster) == []
    images = {kind["node_config"]["ImageId"] for kind in cluster["available_node_types"].values()}
    assert len(images) == 1
    for place in ("head_start_ray_commands", "worker_start_ray_commands"):
        wrong = copy.deepcopy(cluster)
        wrong[place][-1] = wrong[place][-1].replace("RAY_AUTH_MODE=token ", "")
        assert len(nodes_without_a_token(wrong)) == 1


def test_ray_accepts_the_cluster_file_and_no_wrong_one():
    from ray.autoscaler._private.util import prepare_config, validate_config

    good = yaml.safe_load((INFRA / "ray/aws.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(good)))
    for wrong in ({"idle_minutes": 3}, {"head_node_type": "heda"}):
        with pytest.raises(Exception, match=r"idle_minutes|head_node_type"):
            validate_config(prepare_config({**copy.deepcopy(good), **wrong}))
