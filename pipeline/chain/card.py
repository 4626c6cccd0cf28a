"""The data card of a run: what the run file knows joins what the stages left behind."""

from typing import Any

from pipeline import storage
from pipeline.chain.stages import OPT_OUTS
from pipeline.run_file import RunFile
from pipeline.tracking import known_run
from pipeline.tracking_store import keep_files


def write_run_card(run: RunFile, folder: str | None, *, is_tracked: bool) -> dict[str, Any]:
    """Write the card and keep it with the data set's MLflow run.

    Args:
        run: The run file.
        folder: Where the card goes; None for the run's own folder.
        is_tracked: Whether it is kept in MLflow too.

    Returns:
        Places of the files, counts, and the MLflow run that keeps them.

    Raises:
        ConfigError: The run has no finished data set.
        StorageError: The tracking store takes no files.
    """
    from pipeline.looking.card import read_run, write_card

    found = read_run(run.output_dir, _source(run), _ledger(run))
    places = write_card(found, run.output_dir if folder is None else folder)
    line: dict[str, Any] = {"card": places, "num_samples": found.scored.num_samples}
    # The last stage of the data set has the run that keeps it; what was made by hand has none.
    last = list(found.results.values())[-1]
    kept_in = known_run(run.output_dir, last.stage, last.manifest["identity"])
    kept_in = kept_in if is_tracked else None
    if kept_in is not None:
        keep_files(run.execution.tracking, run.output_dir, kept_in, places)
    return {**line, "mlflow_run_id": kept_in}


def _source(run: RunFile) -> str:
    if run.adopt is not None:
        return run.adopt.path
    return str(getattr(run.candidates, "path", ""))


def _ledger(run: RunFile) -> str:
    named = run.curate.crawl.execution.opt_out_ledger if run.curate is not None else None
    return named or storage.join(run.output_dir, OPT_OUTS)
