"""Memory of processes: the peak of this one and all it started, and what it keeps for itself.

The peak is the sum of PSS: RSS would count Ray's shared memory once per process. Linux alone tells
PSS; elsewhere the unique set size is summed.
"""

import ctypes
import threading
from types import TracebackType

import psutil

SAMPLE_EVERY_S = 2.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""
KEPT_BYTES, LARGEST_BYTES = 1 << 30, 32 << 20


def keep_freed_memory() -> None:
    """Let this process keep up to a GiB that it freed, for tensors of the same sizes come again.

    glibc would return it to the kernel, which fills every page with zeros the next time: a sixth of
    the CPU time when large pictures are sampled. Elsewhere than with glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)


def return_freed_memory() -> None:
    """Give the kernel what this process has freed by now and would not need again.

    Small pieces between freed ones would hold it for good. Elsewhere than with glibc nothing
    happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
