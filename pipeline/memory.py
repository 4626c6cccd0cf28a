"""Peak memory of this process and all it started, as the sum of PSS.

RSS would count Ray's shared memory once per process. Linux alone tells PSS; elsewhere the unique
set size is summed.
"""

import threading
from types import TracebackType

import psutil

SAMPLE_EVERY_S = 2.0


def tree_pss_bytes() -> int:
    """Sum of the proportional set sizes of this process and its descendants, now."""
    root = psutil.Process()
    return sum(_pss_bytes(process) for process in [root, *root.children(recursive=True)])


def _pss_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "pss", memory.uss))


class PeakMemory:
    """Samples the tree's PSS in the background; ``with PeakMemory() as peak: ...``."""

    def __init__(self) -> None:
        """Nothing runs before the block is entered."""
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._since_mark = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="peak-memory")

    def mark(self) -> int:
        """The peak in bytes since the last mark; starts a new span."""
        self._sample()
        with self._lock:
            peak, self._since_mark = self._since_mark, 0
        return peak

    def __enter__(self) -> "PeakMemory":
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        now = tree_pss_bytes()
        with self._lock:
            self.peak_bytes = max(self.peak_bytes, now)
            self._since_mark = max(self._since_mark, now)
