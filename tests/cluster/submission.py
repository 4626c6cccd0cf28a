"""A chain submitted as a job, and nodes that die under it."""

import json
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.nodes import BINARIES, Cluster, Node
from tests.cluster.services import Services
from tests.object_store import Store
from tests.tiny_run import ROOT

POLL_S = 0.1
LOOK_S = 1.0
"""Between two looks at what nodes do."""
PLACED = ("execution.ray.tasks_on={pool: cpu}", "execution.ray.models_on={pool: gpu}")
"""Overrides that give partitions to the one pool of nodes and models to the other."""
LONGEST_PAUSE_S = 0.5
"""From the first sign of work to the kill."""
EVENT = re.compile(r"^(\w+): (s3://|done in )", re.MULTILINE)
"""A stage begins, or is done, as the job's log has it."""
HEAD = "head:"
TRAININGS = ("clip", "prior", "decoder", "upsamplers")
RESULT = re.compile(r"\w+/[0-9a-f]{12}/")
"""A stage's folder in the run's."""
CIRCUMSTANCE = re.compile(
    r"/(work|done|crawl_log|metrics|system|checkpoints|ray|looks)/"
    r"|/(circumstance|finished|built|workers|notice)\.json$"
)
"""What tells of an attempt and not of the result."""


def is_result(name: str) -> bool:
    """Whether a file of a run's folder follows from the run's inputs alone."""
    return bool(RESULT.match(name)) and not CIRCUMSTANCE.search(name)


@dataclass(frozen=True)
class Strike:
    """The death of a node."""

    stage: str
    node: str
    lost: list[str]
    """What it was working on."""
    whole: dict[str, bytes]
    """Every object that had its final name then."""


@dataclass
class Submission:
    """One ``ray job submit`` of ``jobs.run``."""

    cluster: Cluster
    services: Services
    store: Store
    """Of its output folder."""
    run_file: Path
    more: Sequence[str] = ()
    """Further overrides of the run file."""
    strikes: list[Strike] = field(default_factory=list)
    calls: int = 0
    """How often it was submitted."""
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a pool's nodes were seen at work on ``tasks`` or with ``models``."""

    @property
    def name(self) -> str:
        """Of the output folder, the experiment and the submission."""
        return self.store.uri.rpartition("/")[2]

    @property
    def places(self) -> list[str]:
        """Overrides that say where results and tracking go."""
        return [
            f"output_dir={self.store.uri}",
            f"execution.tracking.uri={self.services.tracking}",
            f"execution.tracking.experiment={self.name}",
        ]

    @property
    def id(self) -> str:
        """Of the last call."""
        return f"{self.name}-a{self.calls}"

    @property
    def misplaced(self) -> list[str]:
        """What was seen on the wrong nodes, or on none, where the run says which it wants."""
        if not set(PLACED) <= set(self.more):
            return []
        right = {("cpu", "tasks"), ("gpu", "models")}
        wrong = [f"{kind} on {pool}" for pool, kind in self.seen.keys() - right]
        return wrong + [f"no {kind} on {pool}" for pool, kind in right - self.seen.keys()]

    @property
    def log(self) -> Path:
        """What ``ray job submit`` prints."""
        return self.cluster.folder / f"{self.id}.log"

    def said(self) -> str:
        """What the job has printed, as it lies on its node."""
        log = self.cluster.folder / "n0/session_latest/logs" / f"job-driver-{self.id}.log"
        return log.read_text() if log.exists() else ""

    def run(self, deadline_s: float, kill: Sequence[str] = (), seed: int = 1) -> int:
        """Submit, wait, and submit again what only waits for the tracking server.

        Args:
            deadline_s: After so long it has failed.
            kill: Stages in each of which a node dies; ``head:clip`` is the head in that stage, with
                which all others go.
            seed: Of the choice of node and moment.

        Returns:
            The exit code of ``ray job submit``; of one whose head has died, that of SIGKILL.
        """
        code = self._call(deadline_s, _Killer(self, kill, seed))
        while code == 0 and self.calls < 3 and self.store.objects("tracking/"):
            code = self._call(deadline_s, None)
        return code

    def _call(self, deadline_s: float, killer: "_Killer | None") -> int:
        self.calls += 1
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self._command(),
                cwd=ROOT,
                env=self.cluster.client,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until, look = time.monotonic() + deadline_s, 0.0
        try:
            while process.poll() is None and self.cluster.nodes:
                assert time.monotonic() < until, self.log.read_text()[-4000:]
                if killer is not None:
                    killer.look(self.said())
                if time.monotonic() > look:
                    self._look()
                    look = time.monotonic() + LOOK_S
                time.sleep(POLL_S)
        finally:
            process.kill()
            process.wait()
        return process.returncode

    def _look(self) -> None:
        for node in self.cluster.nodes[1:]:
            for title in node.at_work():
                kind = "tasks" if title.startswith("ray::Map(") else "models"
                self.seen[node.pool, kind] += 1

    def _command(self) -> list[str]:
        told = {"env_vars": self.services.submitted}
        settings = [
            *self.places,
            *reached(self.run_file),
            *(f"{place}.execution.num_workers=1" for place in inside(self.run_file)),
            *self.more,
        ]
        return [
            *(str(BINARIES / "ray"), "job", "submit", "--address", self.cluster.dashboard),
            *("--submission-id", self.id, "--working-dir", "."),
            *("--runtime-env-json", json.dumps(told), "--"),
            *("python", "-m", "jobs.run", "--config", str(self.run_file)),
            *(part for setting in settings for part in ("--set", setting)),
        ]


class _Killer:
    """Kills one node in each of some stages."""

    def __init__(self, submission: Submission, stages: Sequence[str], seed: int) -> None:
        self._submission, self._left = submission, list(stages)
        self._draw = random.Random(seed)
        self._due: dict[str, float] = {}

    def look(self, said: str) -> None:
        """Kill, where the stage at work is one of those and is well under way."""
        events = EVENT.findall(said)
        if not events or events[-1][1] != "s3://":
            return
        stage, workers = events[-1][0], self._submission.cluster.nodes[1:]
        if not {stage, HEAD + stage} & set(self._left):
            return
        at_work = {node: found for node in workers if (found := node.at_work())}
        if not at_work or not self._is_under_way(stage):
            return
        pause = self._draw.uniform(0, LONGEST_PAUSE_S)
        if time.monotonic() >= self._due.setdefault(stage, time.monotonic() + pause):
            victim = self._draw.choice(list(at_work))
            self._strike(stage, victim, at_work[victim])

    def _strike(self, stage: str, victim: Node, lost: list[str]) -> None:
        submission, all_of_it = self._submission, HEAD + stage in self._left
        for node in list(submission.cluster.nodes) if all_of_it else [victim]:
            submission.cluster.kill(node)
        self._left.remove(HEAD + stage if all_of_it else stage)
        whole = submission.store.objects(wanted=is_result)
        if any(re.fullmatch(rf"{stage}/\w+/manifest.json", name) for name in whole):
            return  # too late
        submission.strikes.append(Strike(stage, victim.name, lost, whole))
        if not all_of_it:  # the next one shall find as many, and somebody must do what is left
            submission.cluster.add(node_cpus(submission.run_file), victim.pool)

    def _is_under_way(self, stage: str) -> bool:
        """A training has written a checkpoint; of another stage a worker is at work."""
        if stage not in TRAININGS and not stage.startswith("upsampler"):
            return True
        names = self._submission.store.names(f"{stage}/")
        return any(re.search(r"/checkpoints/.*/manifest.json$", name) for name in names)


def _sections(run_file: Path) -> dict[str, dict[str, Any]]:
    """How each training of a run file runs, by its place there."""
    run: dict[str, Any] = yaml.safe_load(run_file.read_text())
    places = {name: run[name] for name in TRAININGS[:3] if name in run}
    places |= {f"upsamplers.{n}": found for n, found in enumerate(run.get("upsamplers", ()))}
    return {place: found["execution"] for place, found in places.items() if "execution" in found}


def reached(run_file: Path) -> list[str]:
    """The override by which all nodes reach the small web, where a run file has one."""
    candidates = yaml.safe_load(run_file.read_text()).get("candidates") or {}
    wanted = "candidates.execution.listen=node"
    return [wanted] if candidates.get("type") == "small_web" else []


def inside(run_file: Path) -> list[str]:
    """Trainings that would run inside the job's process, and on a cluster go to a worker."""
    return [place for place, how in _sections(run_file).items() if how.get("num_workers") == 0]


def node_cpus(run_file: Path) -> int:
    """What a node needs for the largest worker."""
    return max([how.get("threads", 1) for how in _sections(run_file).values()], default=1)
