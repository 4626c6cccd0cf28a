"""Removal: a request enters the ledgers, and the run's keep-lists get a new version without it.

Opt-outs come first (no crawl asks again), then the ledger of removals, then the stage ``select`` on
the data set and the embeddings that the run's index names. Whatever dies on the way, the same
command goes on. Nothing published is changed: older keep-lists and models stay what they were, and
``lineage`` tells which of them hold a sample. Trainings that read a new keep-list start anew with
the next ``jobs.run``; so does the run's own CLIP, whose training must not read the samples either.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from pipeline import lease, results, storage
from pipeline.chain import given
from pipeline.chain.lineage import Artefact, all_results, lineage, samples_of
from pipeline.chain.plan import Step, check_output_dir, recorded
from pipeline.chain.run import Session, Summary
from pipeline.chain.stages import OPT_OUTS, stages
from pipeline.curation import memory
from pipeline.errors import ConfigError
from pipeline.identity import stage_identity
from pipeline.memory import PeakMemory
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.run_file import RunFile
from pipeline.shards import manifest, removals
from pipeline.shards.removals import Entry, Removals

SELECT = "select"
CHOOSE = ("score", SELECT)
"""Stages that make keep-lists of embeddings."""


def preview(run: RunFile, entries: Sequence[Entry]) -> Iterator[Artefact]:
    """What a removal is about, without removing anything: as ``lineage``."""
    check_output_dir(run)
    return lineage(run.output_dir, Removals(entries))


def remove(run: RunFile, entries: Sequence[Entry], progress: Progress) -> dict[str, Any]:
    """Remove samples from everything that is made from now on.

    Args:
        run: The run file.
        entries: What must not be held.
        progress: Where to tell people how far it is.

    Returns:
        ``added`` (entries that are new), ``samples`` (of all data sets of the folder), ``opt_outs``
        (addresses that no crawl asks for again), ``select`` (folder of the new keep-lists; None
        where the run has none yet), ``kept`` per profile.

    Raises:
        ConfigError: The folder belongs to another run or holds no data set.
        BusyError: A live run holds the output folder.
    """
    check_output_dir(run)
    named = Removals(entries)
    known = recorded(run)
    if "curate" not in known:
        raise ConfigError(f"{run.output_dir} holds no finished data set; run jobs.curate first")
    datasets = [each for each in all_results(run.output_dir) if manifest.SHARDS in each.content]
    found = samples_of([each for each in datasets if "funnel" in each.content], named)
    held = [row for dataset in found for rows in dataset.by_shard.values() for row in rows]
    addresses = {row["url"] for row in held} | {e.value for e in named.entries if e.kind == "url"}
    with ExitStack() as stack:
        with lease.hold(run.output_dir):
            num_forbidden = memory.forbid(_opt_outs(run), addresses)
            added = removals.add(run.output_dir, named.entries)
        selected = select_on(run, known, progress, stack) if SELECT in known else None
    profiles = {} if selected is None else selected.content["profiles"]
    return {
        "added": len(added),
        "samples": len({row["key"] for row in held}),
        "opt_outs": num_forbidden,
        "select": None if selected is None else selected.uri,
        "kept": {name: entry["kept"] for name, entry in profiles.items()},
    }


def _opt_outs(run: RunFile) -> str:
    """The ledger that this run's crawls read."""
    named = run.curate.crawl.execution.opt_out_ledger if run.curate is not None else None
    return storage.absolute(named or storage.join(run.output_dir, OPT_OUTS))


class _OnRecorded(Session):
    """Runs a stage on what the index names, whatever the run's plan would make anew first."""

    def preflight(self) -> None:
        """The sources of the run are not needed, and may be gone."""

    def finished_stages(self) -> Mapping[str, Result]:
        """Everything else stays in the index as it was."""
        return self.summary.results


def select_on(
    run: RunFile, known: Mapping[str, Result], progress: Progress, stack: ExitStack
) -> Result:
    """Keep-lists, of a run's recorded data set and embeddings, that know its removals.

    Args:
        run: The run file.
        known: Finished stages that the run's index names.
        progress: Where to tell people how far it is.
        stack: Closes what is opened.
    """
    chosen = [stage for stage in stages(run) if stage.name in CHOOSE]
    hashes = {name: result.manifest_hash for name, result in known.items()}
    taken_down = given.removed(run)
    foreign = {given.REMOVALS: taken_down.content_hash} if taken_down else {}
    if not {name for stage in chosen for name in stage.inputs} <= {*hashes, *foreign, *CHOOSE}:
        foreign = given.hashes(run)  # which may read files that the run started from
    hashes |= foreign
    summary = Summary(results=dict(known), wanted={*CHOOSE})
    session = _OnRecorded(run, foreign, progress, summary, stack)
    for stage in chosen:
        inputs = {name: hashes[name] for name in stage.inputs}
        identity = stage_identity(stage.name, stage.version, stage.config, inputs)
        step = Step(stage, identity, results.place(run.output_dir, stage.name, identity), None)
        hashes[stage.name] = _finished(step, session, summary).manifest_hash
    return summary.results[SELECT]


def _finished(step: Step, session: Session, summary: Summary) -> Result:
    """The result of a stage, which is made where it is missing; the index names it."""
    name, uri = step.stage.name, step.uri
    assert uri is not None
    result = results.read_result(uri)
    if result is None:
        with PeakMemory() as peak:
            result = session.execute(step, peak).result
        assert result is not None
    before = summary.results.get(name)
    summary.results[name] = result
    if before is None or before.uri != uri:  # also where a call died before the index
        session.write_index()
    return result
