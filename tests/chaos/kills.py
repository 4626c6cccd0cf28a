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
REMOTE = {
    *("storage.before_put", "storage.after_put"),
    *("upload.before_part", "upload.before_complete"),
}
"""Passed on object stores alone, which the tiny chain does not use."""
PASSAGES = {"checkpoints": 2, "embeddings": 2, "loop": 3, "results": 8, "storage": 20}
"""So often one process of the tiny chain passes a point at least."""


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

    kill: str
    struck: bool
    """Whether the kill happened: a kill that never strikes proves nothing."""
    calls: int
    difference: str
    """Empty where the run ended as if nothing had happened."""
    seconds: float


def points() -> list[str]:
    """Every failpoint of the source that a local run passes."""
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    return sorted({name for path in files for name in POINT.findall(path.read_text())} - REMOTE)


def draw(seed: int, num: int) -> list[Kill]:
    """``num`` kills, every point once before any comes twice."""
    rng = random.Random(seed)
    kills: list[Kill] = []
    while len(kills) < num:
        shuffled = points()
        rng.shuffle(shuffled)
        kills += [
            Kill(point, rng.randint(1, PASSAGES[point.partition(".")[0]])) for point in shuffled
        ]
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
    mark = folder / "struck"
    code, err = _call(run_file, kill, mark)
    calls, struck = 1, mark.exists()
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
    if not struck:
        difference += " the kill never happened"
    return Outcome(str(kill), struck, calls, difference.strip(), time.monotonic() - started)


def _call(run_file: Path, kill: Kill | None, mark: Path | None = None) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != "FAIL_AT"}
    if kill is not None:
        environment |= {"FAIL_AT": str(kill), "FAIL_MARK": str(mark)}
    process = start(run_file, env=environment)
    _, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, err
