"""Work that is done again and again beside a block of code."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def repeated(work: Callable[[], Any], every_s: float, name: str) -> Iterator[None]:
    """Do some work now and then, in a thread, while the block runs; none is under way afterwards.

    Args:
        work: What is done; it must not raise.
        every_s: Seconds between the end of one time and the next.
        name: Of the thread.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            work()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
