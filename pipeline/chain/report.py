"""The report of a run: what the run file and the tracker know joins what the stages left behind."""

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.curation.pilot import Pilot
from pipeline.results import Result
from pipeline.run_file import RunFile
from pipeline.tracking_store import store_uri

if TYPE_CHECKING:
    from pipeline.evaluation.collect import RunDescription

REPORT = "report.html"


def write_report(run: RunFile, results: Mapping[str, Result], pilot: Pilot | None = None) -> str:
    """Write the run's report beside its stages and return its place.

    Args:
        run: The run file.
        results: Finished stages by name, in order.
        pilot: What the whole run would give, where this one was on a sample.
    """
    from pipeline.evaluation.collect import write_run_report

    uri = storage.join(run.output_dir, REPORT)
    write_run_report(described(run, results, pilot), results, uri)
    return uri


def described(
    run: RunFile, results: Mapping[str, Result], pilot: Pilot | None = None
) -> "RunDescription":
    """What the run file, the tracker and the machine know of a run and its folders do not."""
    from pipeline.evaluation.collect import RunDescription
    from pipeline.training import spool

    stages = [name for name, _ in run.training_stages()]
    facts = [
        ("Commit", commit()[:12]),
        ("Output", run.output_dir),
        ("Machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"),
        ("MLflow", store_uri(run.execution.tracking, run.output_dir)),
    ]
    return RunDescription(
        title=run.name,
        subtitle=_subtitle(results) if pilot is None else "A pilot",
        facts=facts,
        pilot=pilot,
        records={name: spool.read(results[name].uri) for name in stages if name in results},
    )


def _subtitle(results: Mapping[str, Result]) -> str:
    if "evaluate" in results:
        return "From web addresses to generated pictures"
    return f"As far as the stage {list(results)[-1]}"


def commit() -> str:
    """The checkout's commit, recorded but never compared; ``unknown`` outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
