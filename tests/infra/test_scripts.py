"""Shell scripts: linted, and the Slurm script run with commands that do what Slurm's do."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.infra.manifests import INFRA, ROOT
from tests.mlflow_server import free_port

HERE = Path(sys.executable).parent
SCRIPTS = [p for p in sorted(INFRA.rglob("*")) if p.suffix in (".sh", ".sbatch")]
SBATCH = INFRA / "slurm/run.sbatch"
# srun runs the rest of its arguments; scontrol lists this machine and notes what it is asked for.
COMMANDS = {
    "srun": """while [[ "$1" == --* ]]; do
    case "$1" in --overlap) shift ;; *) shift 2 ;; esac
done
exec "$@"
""",
    "scontrol": """echo "$*" >> "$ASKED"
if [ "$1" = show ]; then hostname; fi
""",
}


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    command = [HERE / "shellcheck", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_shellcheck_finds_mistakes(tmp_path):
    wrong = tmp_path / "wrong.sh"
    wrong.write_text(SBATCH.read_text().replace('"$SLURM_JOB_NODELIST"', "$SLURM_JOB_NODELIST"))
    done = subprocess.run([HERE / "shellcheck", wrong], capture_output=True, text=True, check=False)
    assert "SC2086" in done.stdout


class Allocation:
    """A Slurm that is not there: its commands, its variables, its working folder."""

    def __init__(self, folder: Path, num_nodes: int = 1) -> None:
        self.folder, self.asked = folder, folder / "asked"
        (folder / "bin").mkdir()
        (folder / ".venv/bin").mkdir(parents=True)
        for name, text in COMMANDS.items():
            self.command(f"bin/{name}", text)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "ASKED": str(self.asked),
            "PYTHONPATH": str(ROOT),
            "RAY_PORT": str(free_port()),
            "RAY_raylet_start_wait_time_s": "150",
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "here",
            "SLURM_JOB_NUM_NODES": str(num_nodes),
        }

    def command(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)

    def submit(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SBATCH, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def requeued(self) -> bool:
        return "requeue 17" in self.asked.read_text()


def ended(job: subprocess.Popen[str]) -> tuple[str, str]:
    """What the script said; the steps that it leaves end with the allocation, as Slurm does it."""
    try:
        job.wait(timeout=540)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGTERM)
    return job.communicate(timeout=60)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_has_a_cluster_of_its_allocation_with_a_token_that_is_gone_afterwards(tmp_path):
    allocation = Allocation(tmp_path)
    for name in ("ray", "python"):
        allocation.command(f".venv/bin/{name}", f'exec "{HERE / name}" "$@"\n')
    tokens = "execution.ray.allow_open_cluster=false"
    config = str(ROOT / "jobs/configs/demo/run.yaml")
    job = allocation.submit(
        config, "--set", f"output_dir={tmp_path}/run", "--set", tokens, "--dry-run"
    )
    out, err = ended(job)
    assert job.returncode == 0, err
    assert "# stages" in out
    assert not list(tmp_path.glob(".ray-token*"))
    assert not allocation.requeued()


def noting(folder: Path, then: str) -> str:
    """A python that notes what it is given and how, then does as told."""
    return f"""[ "$1" = -c ] && exit  # all nodes are there
env > {folder}/environment
stat -c %a "$RAY_AUTH_TOKEN_PATH" > {folder}/mode
printf '%s\\n' "$@" > {folder}/arguments
{then}
"""


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (2, False), (0, False)])
def test_exit_code_75_alone_is_put_back_into_the_queue(tmp_path, code, requeued):
    allocation = Allocation(tmp_path, num_nodes=3)
    allocation.command(".venv/bin/ray", '[ "$1" = health-check ] || sleep 60\n')
    allocation.command(".venv/bin/python", noting(tmp_path, f"exit {code}"))
    job = allocation.submit("run.yaml", "--set", "a=b")
    _, err = ended(job)
    assert job.returncode == code, err
    assert allocation.requeued() is requeued
    given = (tmp_path / "arguments").read_text().split()
    assert given == ["-m", "jobs.run", "--config", "run.yaml", "--set", "a=b"]
    environment = (tmp_path / "environment").read_text()
    assert "RAY_AUTH_MODE=token" in environment
    assert "RAY_AUTH_TOKEN=" not in environment  # by file alone
    assert (tmp_path / "mode").read_text().strip() == "600"
    assert not list(tmp_path.glob(".ray-token*"))


@pytest.mark.parametrize(
    ("missing", "code", "told"),
    [("ray", 2, "is not there: submit from"), ("run.yaml", 1, "is a run file: sbatch")],
)
def test_what_is_missing_is_named_before_a_node_does_anything(tmp_path, missing, code, told):
    allocation = Allocation(tmp_path)
    if missing != "ray":
        allocation.command(".venv/bin/ray", "sleep 60\n")
    job = allocation.submit(*({"run.yaml"} - {missing}))
    _, err = ended(job)
    assert job.returncode == code
    assert told in err
    assert not allocation.asked.exists()


def test_nodes_that_do_not_start_give_the_allocation_back(tmp_path):
    allocation = Allocation(tmp_path, num_nodes=2)
    allocation.command(".venv/bin/ray", 'echo "the port is taken" >&2; exit 1\n')
    allocation.command(".venv/bin/python", "exit 1\n")
    job = allocation.submit("run.yaml")
    _, err = ended(job)
    assert job.returncode == 1
    assert "the port is taken" in err
    assert "before all 2 nodes had joined" in err
    assert not list(tmp_path.glob(".ray-token*"))


def test_the_signal_before_the_time_is_up_reaches_the_run_which_decides(tmp_path):
    allocation = Allocation(tmp_path)
    allocation.command(".venv/bin/ray", '[ "$1" = health-check ] || sleep 60\n')
    wait = "trap 'echo told; exit 75' TERM; touch ready; while :; do sleep 0.1; done"
    allocation.command(".venv/bin/python", noting(tmp_path, wait))
    job = allocation.submit("run.yaml")
    while not (tmp_path / "ready").exists():
        assert job.poll() is None
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    out, err = ended(job)
    assert job.returncode == 75, err
    assert "told" in out
    assert allocation.requeued()
