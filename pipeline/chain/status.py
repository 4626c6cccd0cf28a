"""How far a run is, read from its folder alone; nothing is started or written."""

from collections.abc import Iterator
from typing import Any

from pipeline import lease, storage
from pipeline.chain.plan import Step, plan
from pipeline.run_file import RunFile
from pipeline.training import spool


def status(run: RunFile) -> Iterator[dict[str, Any]]:
    """One object per stage, in order, then who holds the run's folder.

    ``state`` is ``done``, ``begun`` (its folder holds work that the next call goes on with), ``to
    do``, or ``waits`` for an earlier stage. A training that has begun says its last metrics.
    """
    trained = dict(run.training_stages())
    for step in plan(run):
        found = {"stage": step.stage.name, "state": _state(step), "uri": step.uri}
        if found["state"] == "begun" and step.stage.name in trained:
            points = spool.read(str(step.uri))
            found |= {"samples": trained[step.stage.name].samples}
            found |= {"last": points[-1]} if points else {}
        yield found
    holder = lease.holder(run.output_dir)
    yield {"output_dir": run.output_dir, "held_by": holder}


def _state(step: Step) -> str:
    if step.result is not None:
        return "done"
    if step.uri is None:
        return "waits"
    return "begun" if storage.list_names(step.uri) else "to do"
