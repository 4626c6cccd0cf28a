"""Kill the tiny chain at a failpoint, run it again, and hold it against an undisturbed run.

A kill is survived where the same command then ends with every manifest of the undisturbed run and
leaves no temporary file. SIGKILL strikes whichever process passes the point for the chosen time:
the job itself, or a Ray worker of it.
"""

import os
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_run import ROOT, manifests, start, tiny_run

DEADLINE_S = 900
ATTEMPTS = 3
POINT = re.compile(r'failpoint\("([a-z_.]+)"\)')


@dataclass(frozen=True)
class Kill:
    """SIGKILL at one passage of one point."""

    point: str
    passage: int

    def __str__(self) -> str:
        """As ``FAIL_AT`` takes it."""
        return f"{self.point}:{self.passage}"


@dataclass(frozen=True)
class Outcome:
    """What became of a killed run."""

    kill: Kill
    struck: bool
    """Whether the first call ended before its work did; a replaced Ray worker does not show."""
    calls: int
    difference: str
    """Empty where the run ended as if nothing had happened."""
    seconds: float


def points() -> list[str]:
    """Every failpoint of the source."""
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    return sorted({name for path in files for name in POINT.findall(path.read_text())})


def draw(seed: int, num: int) -> list[Kill]:
    """``num`` kills, every point once before any comes twice; passages 1 to 40."""
    rng = random.Random(seed)
    kills: list[Kill] = []
    while len(kills) < num:
        shuffled = points()
        rng.shuffle(shuffled)
        kills += [Kill(point, rng.choice([1, 2, 3, 5, 8, 13, 20, 40])) for point in shuffled]
    return kills[:num]


def undisturbed(folder: Path) -> dict[str, str]:
    """Manifest hashes by stage of a run that nobody touched."""
    folder.mkdir(parents=True)
    code, err = _call(tiny_run(folder), None)
    if code:
        raise RuntimeError(f"the undisturbed run ended with {code}: {err[-3000:]}")
    return manifests(folder / "run")


def strike(kill: Kill, folder: Path, expected: dict[str, str]) -> Outcome:
    """Run with the kill armed, then without until the run ends well."""
    started = time.monotonic()
    folder.mkdir(parents=True)
    run_file = tiny_run(folder)
    code, err = _call(run_file, kill)
    calls, struck = 1, code != 0
    while code != 0 and calls < ATTEMPTS:
        code, err = _call(run_file, None)
        calls += 1
    found = manifests(folder / "run")
    difference = "" if code == 0 else f"exit {code}: {err[-2000:]}"
    changed = sorted(name for name in expected if found.get(name) != expected[name])
    if changed:
        difference += f" manifests differ: {', '.join(changed)}"
    left = [path.name for path in (folder / "run").rglob("*.tmp-*") if path.is_file()]
    if left:
        difference += f" temporary files left: {', '.join(left[:5])}"
    return Outcome(kill, struck, calls, difference.strip(), time.monotonic() - started)


def _call(run_file: Path, kill: Kill | None) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != "FAIL_AT"}
    if kill is not None:
        environment["FAIL_AT"] = str(kill)
    process = start(run_file, env=environment)
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err
