"""Named points where a test may kill this process: ``FAIL_AT=storage.before_rename:3``.

``FAIL_AT`` names one point and, after a colon, on which passage (1 by default) of this process the
kill happens. Where ``FAIL_MARK`` names a file, the kill leaves it behind and happens only while it
is not there: once, whichever process is replaced. Nothing happens where ``FAIL_AT`` is not set.
"""

import os
import signal
from collections import Counter
from pathlib import Path

_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if ``FAIL_AT`` names this passage of this point."""
    wanted = os.environ.get("FAIL_AT")
    if not wanted:
        return
    _passages[name] += 1
    point, _, passage = wanted.partition(":")
    if point == name and _passages[name] == int(passage or 1):
        mark = os.environ.get("FAIL_MARK")
        if mark and os.path.exists(mark):
            return
        if mark:
            Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
