"""Named points where a test may kill this process: ``FAIL_AT=storage.before_rename:3``.

``FAIL_AT`` names one point and, after a colon, on which passage (1 by default) of this process the
kill happens. Nothing happens where the variable is not set.
"""

import os
import signal
from collections import Counter

_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if ``FAIL_AT`` names this passage of this point."""
    wanted = os.environ.get("FAIL_AT")
    if not wanted:
        return
    _passages[name] += 1
    point, _, passage = wanted.partition(":")
    if point == name and _passages[name] == int(passage or 1):
        os.kill(os.getpid(), signal.SIGKILL)
