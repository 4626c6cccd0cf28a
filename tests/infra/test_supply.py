"""What is shipped: small enough to submit, from versions without the holes that are known."""

import re
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
