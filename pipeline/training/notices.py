"""Notices: what the driver asks of the workers while they train, as a file in the stage's folder.

Workers may sit on other machines than the driver, which learns first that a machine or the whole
job is to be taken away. One of them looks now and then; the next step's exchange tells the others.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from pipeline import storage
from pipeline.runtime import draining_nodes

NOTICE = "notice.json"
LOOK_EVERY_S = 1.0
DRAINS_EVERY_S = 2.0

Action = Literal["checkpoint", "stop"]
"""``checkpoint``: write one now and go on. ``stop``: write one and end."""


def give(uri: str, action: Action) -> None:
    """Ask the workers of a stage for something.

    Args:
        uri: Folder of the stage.
        action: What.
    """
    storage.write_json(storage.join(uri, NOTICE), {"action": action, "number": time.time_ns()})


def withdraw(uri: str) -> None:
    """Forget what was asked before."""
    storage.remove_file(storage.join(uri, NOTICE))


class Notices:
    """A worker's view of them."""

    def __init__(self, uri: str) -> None:
        """Nothing is read yet."""
        self._uri = storage.join(uri, NOTICE)
        self._seen = 0
        self._last_look = float("-inf")

    def new(self) -> Action | None:
        """What is asked, once; looks at most every `LOOK_EVERY_S`."""
        now = time.monotonic()
        if now - self._last_look < LOOK_EVERY_S:
            return None
        self._last_look = now
        if not storage.exists(self._uri):
            return None
        found = storage.read_json(self._uri)
        if found["number"] == self._seen:
            return None
        self._seen = found["number"]
        return found["action"]


@contextmanager
def passed_on(uri: str, grace_s: float) -> Iterator[None]:
    """What reaches the driver in the block reaches the workers too.

    SIGTERM asks them to stop; where they have not after the grace, and at a second SIGTERM, it
    interrupts as before. A node that Ray drains asks for a checkpoint: when the node is gone, Ray
    starts the workers again from it.

    Args:
        uri: Folder of the stage.
        grace_s: Seconds that the workers have.
    """
    withdraw(uri)
    ended = threading.Event()
    threads = [threading.Thread(target=_watch_drains, args=(uri, ended), daemon=True)]

    def interrupt_late() -> None:
        if not ended.wait(grace_s):
            os.kill(os.getpid(), signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        give(uri, "stop")
        threads.append(threading.Thread(target=interrupt_late, daemon=True))
        threads[-1].start()

    threads[0].start()
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if in_main:
        signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        ended.set()
        if in_main:
            signal.signal(signal.SIGTERM, before)
        for thread in threads:
            thread.join()
        withdraw(uri)


def _watch_drains(uri: str, ended: threading.Event) -> None:
    known: set[str] = set()
    while not ended.wait(DRAINS_EVERY_S):
        draining = draining_nodes()
        if draining - known:
            give(uri, "checkpoint")
        known |= draining
