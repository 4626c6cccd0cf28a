"""What a job says at its end: the last line of output and the quality gates."""

from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.chain import pilot
from pipeline.chain.report import REPORT
from pipeline.chain.run import Summary
from pipeline.errors import QualityError
from pipeline.run_file import RunFile
from pipeline.tracking_store import store_uri


def headline(run: RunFile, summary: Summary) -> dict[str, Any]:
    """The run's numbers in one flat object.

    ``wall_s``, ``peak_pss_bytes`` and ``orchestration_s`` are of this call; oracle scores are
    there where a small web was drawn.
    """
    line: dict[str, Any] = {"stages_run": summary.ran, **_counts(summary)}
    if (evaluated := summary.results.get("evaluate")) is not None:
        line |= _scores(evaluated.content["metrics"])
    if storage.exists(report := storage.join(run.output_dir, REPORT)):
        line["report_path"] = report
    if summary.pilot is not None:
        line |= {**pilot.headline(summary.pilot), "pilot_path": pilot.path(run)}
    if (generated := summary.results.get("generate")) is not None:
        line["num_pictures"] = generated.content["num_pictures"]["final"]
    line |= {
        "wall_s": round(summary.wall_s, 1),
        "peak_pss_bytes": summary.peak_pss_bytes,
        "orchestration_s": round(summary.orchestration_s, 1),
        "run_uri": run.output_dir,
        "mlflow_uri": store_uri(run.execution.tracking, run.output_dir),
    }
    return line


def _counts(summary: Summary) -> dict[str, int]:
    """How many queries, candidates, balanced pairs and samples there are, as far as known."""
    content = {name: result.content for name, result in summary.results.items()}
    found: dict[str, int] = {}
    if "queries" in content:
        found["num_queries"] = content["queries"]["num_queries"]
    if "balance" in content:
        funnel = content["balance"]["funnel"]
        found |= {"num_candidates": funnel["candidates"], "num_pairs": funnel["kept"]}
    if "curate" in content:
        found["num_samples"] = content["curate"]["num_samples"]
    return found


def _scores(metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for attribute, name in (("colour", "colour"), ("kind", "shape"), ("background", "background")):
        estimate = metrics["accuracy"].get(f"{attribute}_accuracy")
        if estimate is not None:
            found[f"oracle_{name}_accuracy"] = estimate["value"]
            found[f"oracle_{name}_low95"] = estimate["low95"]
    return found


def failed_gates(summary: Summary) -> QualityError | None:
    """The quality gates that do not hold, as one error; of an evaluation that was asked for."""
    evaluated = summary.results.get("evaluate") if "evaluate" in summary.wanted else None
    failed = evaluated.content["failed_gates"] if evaluated else []
    return QualityError("; ".join(failed)) if failed else None
