"""Kill a small curation at random moments, run it again, and hold its files against an undisturbed
run, byte for byte.

Who dies is drawn too: the job, one of Ray's workers, or the node: its raylet, and all workers with
it. The same command must then end with the same shards, views and tables.
"""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from tests.chaos.kills import ATTEMPTS, DEADLINE_S, Outcome
from tests.tiny_run import start, tiny_run

VICTIMS = ("driver", "worker", "node")
CIRCUMSTANCE = frozenset({"circumstance.json", "finished.json"})
"""Facts of a run, not of its result; the crawl log and ``work/`` are such facts too."""
POLL_S = 0.02
PACES = (1.0, 0.6, 0.3)
"""A machine may be faster than when the undisturbed run was timed: a kill that came too late comes
once more at a higher pace."""


@dataclass(frozen=True)
class Moment:
    """SIGKILL for one process after a share of the time that the stage takes."""

    victim: str
    share: float

    def __str__(self) -> str:
        """For people."""
        return f"{self.victim} at {self.share:.0%}"


def draw_moments(seed: int, num: int) -> list[Moment]:
    """``num`` moments; the victims take turns."""
    rng = random.Random(seed)
    return [Moment(VICTIMS[number % len(VICTIMS)], rng.random()) for number in range(num)]


@dataclass(frozen=True)
class Undisturbed:
    """A curation that nobody touched."""

    files: dict[str, str]
    """Hash of every file of the result."""
    seconds: float
    """From the stage's first file to its last, the manifest."""


def undisturbed_curation(folder: Path) -> Undisturbed:
    """Curate once."""
    run_file = _run_file(folder)
    process = start(run_file)
    began = _wait_for(process, folder, "work/*")
    seconds = _wait_for(process, folder, "manifest.json") - began
    _, err = process.communicate(timeout=DEADLINE_S)
    if process.returncode:
        raise RuntimeError(f"the undisturbed run ended with {process.returncode}: {err[-3000:]}")
    return Undisturbed(_files(folder), seconds)


def strike_at(moment: Moment, folder: Path, expected: Undisturbed) -> Outcome:
    """Run, kill at the moment, then run without until the run ends well."""
    for number, pace in enumerate(PACES):
        outcome = _strike(moment, pace, folder / str(number), expected)
        if outcome.struck:
            break
    return outcome


def _strike(moment: Moment, pace: float, folder: Path, expected: Undisturbed) -> Outcome:
    started = time.monotonic()
    run_file = _run_file(folder)
    process = start(run_file)
    _wait_for(process, folder, "work/*")
    time.sleep(moment.share * pace * expected.seconds)
    struck = kill_one(process.pid, moment)
    _, err = process.communicate(timeout=DEADLINE_S)
    code, calls = process.returncode, 1
    while code != 0 and calls < ATTEMPTS:
        again = start(run_file)
        _, err = again.communicate(timeout=DEADLINE_S)
        code, calls = again.returncode, calls + 1
    found = _files(folder)
    difference = "" if code == 0 else f"exit {code}: {err[-2000:]}"
    names = found.keys() | expected.files.keys()
    changed = sorted(name for name in names if found.get(name) != expected.files.get(name))
    if changed:
        difference += f" files differ: {', '.join(changed[:5])}"
    if not struck:
        difference += " there was nobody to kill"
    seconds = time.monotonic() - started
    return Outcome(str(moment), struck, calls, difference.strip(), seconds)


def _run_file(folder: Path) -> Path:
    """The tiny run as far as its shards."""
    folder.mkdir(parents=True)
    path = tiny_run(folder)
    run = yaml.safe_load(path.read_text())
    kept = ("name", "output_dir", "candidates", "queries", "balance", "curate")
    path.write_text(yaml.safe_dump({name: run[name] for name in kept}))
    return path


def _wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> float:
    """Monotonic time at which the first such file of ``curate`` appeared."""
    while process.poll() is None and not list((folder / "run").glob(f"curate/*/{pattern}")):
        time.sleep(POLL_S)
    return time.monotonic()


def kill_one(pid: int, moment: Moment, workers_are: str = "ray::") -> bool:
    """Whether somebody died; workers are the processes whose name begins so, idle ones left out."""
    try:
        tree = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    if moment.victim == "driver":
        found = [pid]
    elif moment.victim == "node":  # workers may outlive a raylet; a machine takes them along
        raylets = [child for child in tree if _is(child, "raylet")]
        found = [each.pid for one in raylets for each in (one, *one.children(recursive=True))]
    else:
        busy = [child for child in tree if _is(child, workers_are) and not _is(child, "ray::IDLE")]
        workers = [child.pid for child in busy]
        found = [random.Random(str(moment)).choice(workers)] if workers else []
    for victim in found:
        with contextlib.suppress(ProcessLookupError):  # its parent's death was faster
            os.kill(victim, signal.SIGKILL)
    return bool(found)


def _is(process: psutil.Process, name: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return bool(command) and (command[0].startswith(name) or Path(command[0]).name == name)


def _files(folder: Path) -> dict[str, str]:
    """Hash of each file of the finished curate stage."""
    found = {}
    for place in (folder / "run").glob("curate/*"):
        for path in sorted(place.rglob("*")):
            name = str(path.relative_to(place))
            ephemeral = name.startswith(("work/", "crawl_log/"))
            if path.is_file() and not ephemeral and path.name not in CIRCUMSTANCE:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
