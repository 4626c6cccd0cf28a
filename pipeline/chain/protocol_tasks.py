"""What protocols share: where held-out samples are read, how tasks run, what is handed back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.chain.stages import Work
from pipeline.evaluation.config import HeldOutCheck
from pipeline.results import StageOutput

if TYPE_CHECKING:
    from pipeline.evaluation.held_out import HeldOutSource


def held_out_source(config: HeldOutCheck, work: Work) -> "HeldOutSource":
    """Where a protocol reads held-out samples."""
    from pipeline.evaluation.held_out import HeldOutSource
    from pipeline.shards.curated import CuratedDataset
    from pipeline.shards.embedding_files import EmbeddedDataset
    from pipeline.shards.keep_list import keep_list

    curated = CuratedDataset(work.inputs["curate"])
    embedded = EmbeddedDataset(work.inputs["embed"], curated)
    keep = keep_list(work.inputs["select"], config.profile)
    return HeldOutSource(curated, embedded, keep, config.num_samples)


def run_tasks(tasks: Mapping[str, Any], work: Work) -> dict[str, dict[str, Any]]:
    """Results of all tasks by name; what was finished before is only read."""
    from pipeline.evaluation.tasks import TaskRow, run_tasks

    rows = {
        name: TaskRow(storage.join(work.uri, "work", f"{name}.json"), task)
        for name, task in tasks.items()
    }
    done = {}
    with work.progress.stage("protocol", total=len(rows), unit="tasks") as bar:
        for name, result in run_tasks(rows):
            done[name] = result
            bar.advance(1)
    return done


def output(
    groups: Mapping[str, Mapping[str, Any]],
    done: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> StageOutput:
    """What a protocol hands back: estimates by group, and further facts."""
    metrics = {
        group: {name: estimate.as_dict() for name, estimate in found.items()}
        for group, found in groups.items()
    }
    intervals = [(row["started_s"], row["ended_s"]) for row in done.values()]
    return StageOutput({"metrics": metrics, **facts}, intervals)
