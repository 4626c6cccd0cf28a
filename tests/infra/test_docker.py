"""The image without an engine: linted, and its steps replayed as far as they can be without a root.

What it installs is the lock, as the README's commands do from a clean clone.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from pipeline.runtime import ENVIRONMENT
from tests.infra.manifests import INFRA, ROOT

DOCKERFILE = INFRA / "docker/Dockerfile"
LOCK = INFRA / "docker/requirements.lock"
HERE = os.path.dirname(sys.executable)
LOCAL_ONLY = {  # what a private Ray on a laptop needs and a cluster should not have
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    "RAY_raylet_start_wait_time_s",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    "RAY_TRAIN_METRICS_ENABLED",
    "RAY_AIR_NEW_OUTPUT",
    "RAY_BACKEND_LOG_LEVEL",
    "RAY_DATA_DISABLE_PROGRESS_BARS",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
}


def instructions():
    """Name and arguments of every instruction, continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line.split(maxsplit=1) for line in joined.splitlines() if line]


def hadolint(text, tmp_path):
    path = tmp_path / "Dockerfile"
    path.write_text(text)
    command = [f"{HERE}/hadolint", "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_hadolint_finds_nothing_but_mistakes(tmp_path):
    good = DOCKERFILE.read_text()
    assert hadolint(good, tmp_path) == ""
    assert "DL3002" in hadolint(good.replace("USER 1000", "USER root"), tmp_path)
    assert "DL3006" in hadolint(re.sub(r"FROM (\S+):\S+", r"FROM \1", good), tmp_path)
    assert "DL3000" in hadolint(good.replace("WORKDIR /home", "WORKDIR home"), tmp_path)


def test_the_image_is_pinned_and_runs_as_nobody_special():
    steps = instructions()
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", dict(steps)["FROM"])
    assert dict(steps)["USER"] == "1000"
    version = re.search(r"^uv==(\S+)", LOCK.read_text(), re.MULTILINE).group(1)
    assert f"uv=={version}" in DOCKERFILE.read_text()


def environment():
    values = [text for name, text in instructions() if name == "ENV"]
    return dict(each.split("=", 1) for text in values for each in text.split())


def test_workers_of_a_cluster_get_what_local_ones_get():
    inside = environment()
    assert inside.items() >= {k: v for k, v in ENVIRONMENT.items() if k not in LOCAL_ONLY}.items()
    assert inside["RAY_AUTH_MODE"] == "token"
    assert set(ENVIRONMENT) >= LOCAL_ONLY


def copied(folder):
    """Do the COPY steps with what a clone holds, .dockerignore left out."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = listed.stdout.split()
    for text in (text for name, text in instructions() if name == "COPY"):
        *sources, target = text.split()
        for source in sources:
            files = [f for f in tracked if f == source or f.startswith(f"{source}/")]
            assert files, source
            assert not [f for f in files if f.split("/")[0] in ignored], source
            for file in files:
                inside = file.removeprefix(source).lstrip("/")
                name = inside or (os.path.basename(file) if target.endswith("/") else "")
                place = folder / target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, place)


def test_what_is_copied_is_enough_to_run(tmp_path):
    app = tmp_path / "app"
    copied(app)
    names = {path.name for path in app.iterdir()}
    assert names == {"pipeline", "jobs", "infra", "pyproject.toml", "README.md"}
    (command,) = [text for name, text in instructions() if name == "CMD"]
    variables = {**os.environ, **environment(), "PATH": f"{HERE}:{os.environ['PATH']}"}
    for arguments in (listed(command), ["jobs.run", "--config", "jobs/configs/demo/run.yaml"]):
        more = [] if "--help" in arguments else ["--dry-run", "--set", f"output_dir={tmp_path}/run"]
        done = subprocess.run(
            ["python", "-m", *arguments, *more],
            cwd=app,
            env={**variables, "PYTHONPATH": str(app)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (app / "infra/mlflow/serve.sh").stat().st_mode & 0o111


def listed(text):
    return re.findall(r'"([^"]+)"', text)


@pytest.mark.parametrize("index", ["", "an index"])
def test_for_cpus_torch_alone_is_left_out_of_the_lock(index):
    """The argument that makes the image small takes away nothing else."""
    command = ["awk", "-v", f"cpu={index}", "-f", str(INFRA / "docker/cpu.awk"), str(LOCK)]
    kept = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not index:
        assert kept == LOCK.read_text()
        return
    gone = {n for n in re.findall(r"^(\S+)==", LOCK.read_text(), re.MULTILINE)}
    gone -= set(re.findall(r"^(\S+)==", kept, re.MULTILINE))
    assert {"torch", "torchvision", "triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= gone
    assert all(re.match(r"torch(vision)?$|triton$|nvidia-|cuda-", name) for name in gone)
    entries = re.split(r"\n(?=\S)", kept.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
