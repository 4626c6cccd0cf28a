"""How a stage of curation ended: its content, and what its tasks took, which a pilot scales up.

Written before working files are deleted, so that a stage that died between the two is finished.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.results import StageOutput
from pipeline.shards.manifest import merge_counts
from pipeline.steps import Spent

SUMMARY = "finished.json"

Manifest = Mapping[str, Any]


def recorded(uri: str) -> bool:
    """Whether a stage's work was finished before."""
    return storage.exists(storage.join(uri, SUMMARY))


def record(
    uri: str,
    content: Mapping[str, Any],
    done: Mapping[str, Sequence[Manifest]],
    spent: Mapping[str, Sequence[Spent]],
) -> None:
    """Write how a stage ended.

    Args:
        uri: Folder of the stage.
        content: What follows from the inputs alone.
        done: Per step the manifests of its tasks.
        spent: Per step what they took.
    """
    tasks = {
        name: [_task(manifest, each) for manifest, each in zip(done[name], took, strict=True)]
        for name, took in spent.items()
    }
    by_reader = merge_counts(_by_reader(manifest) for each in done.values() for manifest in each)
    work = [(each.started_s, each.ended_s) for took in spent.values() for each in took]
    summary = {"content": content, "work": work, "tasks": tasks, "dropped_by_reader": by_reader}
    storage.write_json(storage.join(uri, SUMMARY), summary)


def read(uri: str) -> dict[str, Any]:
    """``content, work, tasks, dropped_by_reader`` of a finished stage."""
    return storage.read_json(storage.join(uri, SUMMARY))


def output(uri: str) -> StageOutput:
    """A finished stage's content and the Unix times (s) between which its tasks worked."""
    found = read(uri)
    return StageOutput(
        found["content"], [(float(start), float(end)) for start, end in found["work"]]
    )


def _task(done: Manifest, spent: Spent) -> dict[str, Any]:
    """CPU seconds of a task, those that do not grow with the sample, and the pairs it took on."""
    num_pairs = done.get("kept", 0) + sum(done["dropped"].values()) - sum(_by_reader(done).values())
    fixed_cpu_s = done.get("fixed_cpu_s", 0.0)
    cpu_s = spent.cpu_s + done.get("child_cpu_s", 0.0)
    return {"cpu_s": cpu_s, "fixed_cpu_s": fixed_cpu_s, "num_pairs": num_pairs}


def _by_reader(done: Manifest) -> dict[str, int]:
    return done.get("dropped_by_reader", {})
