"""The page of a trained model: its run's report, its protocols, its data card and its limits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline import storage
from pipeline.chain.plan import check_output_dir, recorded
from pipeline.chain.protocol_report import (
    failed_gates,
    finished_protocols,
    protocol_data,
)
from pipeline.chain.report import described
from pipeline.errors import ConfigError
from pipeline.evaluation.report_data import Limit, ReportData
from pipeline.results import Result
from pipeline.run_file import RunFile
from pipeline.tracking import parent_run
from pipeline.tracking_store import keep_files

PAGE = "model.html"
LIMITS = {
    "probes": "Attributes bound to the right thing, places, counts, negation, long descriptions, "
    "words in pictures, crowds, faces, and what neutral prompts show",
    "typographic": "Words drawn on a picture that CLIP reads as what the picture shows",
    "memorisation": "Pictures that lie nearer to a training picture than others do",
    "guidance": "What stronger guidance takes from the variety of pictures",
    "prior_importance": "What the caption alone gives, without the prior",
    "decoder": "How much of a picture the decoder gives back from its own embedding and noise",
}
"""Protocols that show what a model cannot do (Ramesh et al. 2022 §7 names most), and what each is
about."""


def write_model_page(run: RunFile, card: Sequence[str], *, is_tracked: bool) -> dict[str, Any]:
    """Write ``model.html`` beside the run's stages.

    Args:
        run: The run file.
        card: Files of its data card, to which the page points.
        is_tracked: Whether both are kept with the chain's run in MLflow.

    Returns:
        ``model_page`` (place), ``protocols`` (names of those it shows), ``failed_gates``,
        ``mlflow_run_id``.

    Raises:
        ConfigError: Nothing of the run was measured.
        StorageError: The tracking store takes no files.
    """
    from pipeline.evaluation.collect import collect
    from pipeline.evaluation.report import write_report

    check_output_dir(run)
    known = recorded(run)
    measured = finished_protocols(run.output_dir, known)
    if "evaluate" not in known and not measured:
        raise ConfigError(
            f"{run.output_dir} holds nothing that was measured; run python -m jobs.run, or "
            "python -m jobs.evaluate --protocol ..."
        )
    evaluated = known["evaluate"].content["failed_gates"] if "evaluate" in known else []
    failed = [*evaluated, *failed_gates(run, measured)]
    page = _joined(collect(described(run, known), known), protocol_data(run, measured, known))
    facts = [*page.facts, *(("Data card", each) for each in card)]
    page = replace(
        page, title=f"{run.name}: the model", facts=facts, limits=_limits(measured, failed)
    )
    place = storage.join(run.output_dir, PAGE)
    write_report(page, place)
    kept_in = parent_run(run.output_dir) if is_tracked else None
    if kept_in is not None:
        keep_files(run.execution.tracking, run.output_dir, kept_in, [place, *card])
    return {
        "model_page": place,
        "protocols": list(measured),
        "failed_gates": failed,
        "mlflow_run_id": kept_in,
    }


def _joined(report: ReportData, protocols: ReportData) -> ReportData:
    told = {cost.stage for cost in report.costs}
    return replace(
        report,
        subtitle="What it was trained on, what it can, what it cannot, what it took",
        score_tables=[*report.score_tables, *protocols.score_tables],
        lines=protocols.lines,
        sheets=protocols.sheets,
        costs=[*report.costs, *(cost for cost in protocols.costs if cost.stage not in told)],
    )


def _limits(measured: Mapping[str, Result], failed: list[str]) -> list[Limit]:
    """Bounds that do not hold, then each known limit: where it is measured, or how to."""
    missed = [
        Limit("A bound of the run file does not hold", line, is_measured=True) for line in failed
    ]
    shown = [
        Limit(about, "measured; its tables and pictures are on this page", is_measured=True)
        if name in measured
        else Limit(
            about, f"not measured: python -m jobs.evaluate --protocol {name}", is_measured=False
        )
        for name, about in LIMITS.items()
    ]
    return [*missed, *shown]
