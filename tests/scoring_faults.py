"""A task of scoring that dies once; of a module, since workers import it by name."""

import os
import signal
from pathlib import Path

from pipeline.selection.score import score_shard


def dying_shard(row, plan):
    """Scores a shard; the process that comes to shard 2 first is killed after its file is there."""
    found = score_shard(row, plan)
    mark = Path(plan.uri).with_suffix(".died")
    if row["number"] == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return found
