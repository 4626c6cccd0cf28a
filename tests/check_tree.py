"""Checks of the tree that need no other tool: ``python -m tests.check_tree``.

The lock satisfies ``pyproject.toml`` and names no index; the top level is what it should be; no
file is large, no file holds a private key.
"""

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"pyproject.toml", "pipeline", "jobs", "infra", "tests", "README.md"}
MAX_FILE_BYTES = 1_000_000
LOCK = ROOT / "infra/docker/requirements.lock"


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def lock_findings() -> list[str]:
    text = LOCK.read_text()
    pins = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    findings = []
    for line in wanted:
        requirement = Requirement(line)
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin, prereleases=True):
            findings.append(f"{LOCK.name}: {requirement.name} is {pin}, pyproject wants {line}")
        if not any(s.operator in ("<", "==", "~=") for s in requirement.specifier):
            findings.append(f"pyproject.toml: {line} has no upper bound")
    if re.search(r"://|--index-url|--find-links", text):
        findings.append(f"{LOCK.name}: holds an address")
    entries = re.split(r"\n(?=\S)", text.strip())
    findings += [
        f"{LOCK.name}: {e.split()[0]} has no hash" for e in entries if "--hash=sha256:" not in e
    ]
    return findings


def file_findings() -> list[str]:
    findings = []
    for path in tracked_files():
        name = path.relative_to(ROOT)
        top = name.parts[0]
        if top not in TOP_LEVEL and not top.startswith("."):
            findings.append(f"{name}: the top level holds {sorted(TOP_LEVEL)} and dotfiles only")
        if path.stat().st_size > MAX_FILE_BYTES:
            findings.append(f"{name}: {path.stat().st_size} bytes, at most {MAX_FILE_BYTES}")
        if b"PRIVATE KEY" + b"-----" in path.read_bytes():
            findings.append(f"{name}: holds a private key")
    return findings


def main() -> int:
    findings = lock_findings() + file_findings()
    for finding in findings:
        sys.stderr.write(finding + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
