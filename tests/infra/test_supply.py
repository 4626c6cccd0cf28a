"""What is shipped: small enough to submit, from versions without the holes that are known."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.infra.manifests import INFRA, ROOT

MAX_PACKED_BYTES = 5 << 20
HOLES = {  # the newest version that has it, and what it is
    "ray": ("2.55.1", "CVE-2026-57516: read_webdataset unpickles members of a tar"),
    "mlflow": ("3.16.0", "CVE-2026-115886: scorers fetch what a request names"),
    "pillow": ("12.1.1", "CVE-2026-40192: a FITS picture that unpacks without bound"),
    "torch": ("2.5.1", "CVE-2025-32434: weights_only loads run code"),
}


def test_a_submitted_working_directory_is_small_and_whole(tmp_path):
    """Packed by Ray itself, as ``ray job submit --working-dir .`` does."""
    from ray._private.runtime_env.packaging import create_package

    target = tmp_path / "package.zip"
    create_package(str(ROOT), target, include_gitignore=True)
    assert target.stat().st_size < MAX_PACKED_BYTES
    names = set(zipfile.ZipFile(target).namelist())
    assert {"jobs/run.py", "pipeline/runtime.py", "jobs/configs/demo/run.yaml"} <= names
    tops = {name.split("/")[0] for name in names}
    assert not tops & {".git", ".venv", "runs", "tests", ".ruff_cache", ".pytest_cache"}
    assert not [name for name in names if name.endswith(".pyc")]


@pytest.mark.parametrize("package", HOLES)
def test_known_holes_are_below_the_floor_and_the_lock(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r for r in map(Requirement, project["dependencies"])}[package]
    version, hole = HOLES[package]
    assert not wanted.specifier.contains(version), hole
    text = (INFRA / "docker/requirements.lock").read_text()
    locked = re.search(rf"^{package}==(\S+)", text, re.MULTILINE).group(1)
    assert Version(locked) > Version(version), hole


def test_the_bill_of_materials_is_the_lock(tmp_path):
    done = subprocess.run(
        [sys.executable, str(INFRA / "docker/materials.py")], capture_output=True, check=True
    )
    bill = json.loads(done.stdout)
    text = (INFRA / "docker/requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    components = bill["components"]
    assert [(each["name"], each["version"]) for each in components] == pins
    assert len({each["purl"] for each in components}) == len(pins) > 200
    hashes = [found["content"] for each in components for found in each["hashes"]]
    assert hashes == re.findall(r"--hash=sha256:([0-9a-f]{64})", text)
    torch = next(each for each in components if each["name"] == "torch")
    assert torch["purl"].startswith("pkg:pypi/torch@2.")


@pytest.mark.slow
def test_importing_everything_contacts_nobody():
    """Every module of ours, with all that it imports, where whoever opens a connection fails."""
    code = """
import importlib, pkgutil, sys
from pipeline.runtime import prepare_environment
prepare_environment()
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"{event} {arguments[1:]}")
sys.addaudithook(watch)
import jobs, pipeline
num = 0
for package in (pipeline, jobs):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "pipeline.interop.diffusers.load":  # copied, never imported here
            importlib.import_module(module.name)
            num += 1
import img2dataset, mlflow, open_clip, ray.data, ray.serve, ray.train, torch, webdataset
print(num)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.splitlines()[-1]) > 150
