"""One Ray Data graph over partitions: a small JSON row in, a small JSON manifest out.

Pixels never travel this way. Errors of our own come back as rows and are raised again on the
driver, because Ray Data loses the cause of what a task raises.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pipeline import errors
from pipeline.placement import tasks_on

Row = dict[str, Any]

MAX_TASKS = 10_000
"""Tasks of one graph; each costs Ray 5 to 20 ms and the driver some memory. More rows than this
share tasks, and a task that is repeated does all of its rows again."""


def map_partitions(work: Callable[[Row], Row], rows: Sequence[Row]) -> Iterator[Row]:
    """Run ``work`` on every row in tasks of one CPU; results come as tasks are finished.

    Args:
        work: A function of a module (or a partial of one): it travels to other processes.
        rows: What each task is given; JSON values.

    Raises:
        PipelineError: The first error of ours that a task met, by its own type.
    """
    if not rows:
        return
    import ray.data

    items = [{"row": json.dumps(row)} for row in rows]
    graph = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_TASKS))
    mapped = graph.map(partial(_task, work=work), num_cpus=1, label_selector=tasks_on())
    for done in mapped.iter_rows():
        if done["error"]:
            kind, message = json.loads(done["error"])
            raise getattr(errors, kind)(message)
        yield json.loads(done["result"])


def _task(item: Row, work: Callable[[Row], Row]) -> Row:
    try:
        return {"result": json.dumps(work(json.loads(item["row"]))), "error": ""}
    except errors.PipelineError as error:
        return {"result": "", "error": json.dumps([type(error).__name__, str(error)])}
