"""Holds a run on the cluster against one that a single process made on a local disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.training import spool
from tests import object_store
from tests.cluster.submission import Strike, Submission, is_result
from tests.tiny_run import ROOT

CURVES = ("loss", "gradient_norm", "validation_loss", "learning_rate")
"""Metrics that follow from the inputs alone."""


def compared(local: Path, submission: Submission) -> tuple[dict[str, int], dict[str, list[str]]]:
    """How much was compared, and what differs in each respect: nothing, where all is well."""
    files = object_store.files(str(local))
    expected = {name: body for name, body in files.items() if is_result(name)}
    found = submission.store.objects(wanted=is_result)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in submission.services.machine.items():
            patch.setenv(name, value)
        runs, curves = _tracked(submission, local)
    stages = {name.partition("/")[0] for name in expected if name.endswith("/manifest.json")}
    counts = {"stages": len(stages), "files": len(expected), "curves": len(curves)}
    counts["bytes"] = sum(map(len, expected.values()))
    return counts, {
        "files": _differing(expected, found),
        "unfinished": _unfinished(submission),
        "half_when_a_node_died": _half(submission.strikes, expected),
        "verify": _problems(submission),
        "mlflow_runs": _miscounted(runs, stages),
        "mlflow_curves": sorted(name for name, same in curves.items() if not same),
    }


def _differing(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    names = sorted(expected.keys() | found.keys())
    return [name for name in names if expected.get(name) != found.get(name)]


def _unfinished(submission: Submission) -> list[str]:
    """Uploads that nobody has ended, temporary names, messages that were not sent."""
    names = submission.store.names()
    wrong = [name for name in names if ".tmp-" in name or name.startswith("tracking/")]
    return wrong + submission.store.pending()


def _half(strikes: list[Strike], expected: dict[str, bytes]) -> list[str]:
    """Files that had their final names when a node died, and not their bytes."""
    return [
        f"{strike.stage}: {name}"
        for strike in strikes
        for name, body in strike.whole.items()
        if expected.get(name) != body
    ]


def _problems(submission: Submission) -> list[str]:
    """What ``jobs.verify`` finds."""
    sets = [part for setting in submission.places for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.verify", "--config", str(submission.run_file), *sets],
        cwd=ROOT,
        env={**os.environ, **submission.services.submitted},
        capture_output=True,
        text=True,
        check=False,
    )
    return [] if done.returncode == 0 else [(done.stdout + done.stderr)[-2000:]]


def _miscounted(runs: list[tuple[str, str, bool]], stages: set[str]) -> list[str]:
    """Runs that are too many, too few, not finished or in the wrong place."""
    wanted = sorted([("", "FINISHED", True), *((name, "FINISHED", False) for name in stages)])
    found = sorted(runs)
    return [] if found == wanted else [f"{found} instead of {wanted}"]


def _tracked(
    submission: Submission, local: Path
) -> tuple[list[tuple[str, str, bool]], dict[str, bool]]:
    """Each run's stage, status and whether it is the chain's own; each curve's equality."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(submission.services.tracking)
    experiment = client.get_experiment_by_name(submission.name)
    assert experiment is not None
    runs, curves = [], {}
    for run in client.search_runs([experiment.experiment_id]):
        is_parent = "mlflow.parentRunId" not in run.data.tags
        name = "" if is_parent else str(run.info.run_name)
        runs.append((name, run.info.status, is_parent))
        for folder in () if is_parent else local.glob(f"{name}/*/metrics"):
            points = spool.read(str(folder.parent))
            for metric in CURVES:
                wanted = [(int(p[spool.STEP]), p[metric]) for p in points if metric in p]
                history = client.get_metric_history(run.info.run_id, metric)
                found = sorted((each.step, each.value) for each in history)
                curves[f"{name}.{metric}"] = found == wanted
    return runs, curves
