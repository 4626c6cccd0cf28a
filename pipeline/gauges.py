"""Every progress bar's numbers as Ray metrics, for Prometheus: what the dashboards of infra/ show.

Ray's agent on each node exports them with its own, under names that begin with ``ray_``. It forgets
a gauge that was not set for two of its intervals (20 s), so a thread says the last numbers again
while a bar is open: what stands still is seen standing, what has ended is gone.
"""

import sys
import threading
from collections.abc import Mapping

EVERY_S = 1.0
DONE, TOTAL, NOTE = "unclip_done", "unclip_total", "unclip_note"


class BarGauges:
    """One bar's gauges: how much is done, of how much, and its notes such as ``kept`` or ``loss``.

    Nothing happens where Ray does not run.
    """

    def __init__(self, name: str, unit: str, total: int) -> None:
        """Gauges with the labels ``bar`` and ``unit``."""
        self._tags, self._total, self._done = {"bar": name, "unit": unit}, total, 0
        self._notes: dict[str, int | float | str] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def show(self, done: int, notes: Mapping[str, int | float | str]) -> None:
        """How far the bar is."""
        self._done, self._notes = done, dict(notes)
        if self._thread is None and _ray_runs():
            self._thread = threading.Thread(target=self._repeat, name="gauges", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Say the last numbers for the last time."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _repeat(self) -> None:
        last = False
        while not last:
            last = self._ended.wait(EVERY_S)
            if _ray_runs():
                self._set()

    def _set(self) -> None:
        from ray.util.metrics import Gauge

        labels = tuple(self._tags)
        Gauge(DONE, "Units of a stage that are done.", labels).set(self._done, self._tags)
        Gauge(TOTAL, "Units of a stage in all.", labels).set(self._total, self._tags)
        note = Gauge(NOTE, "Counts and measures of a stage.", (*labels, "note"))
        for name, value in self._notes.items():
            if not isinstance(value, str):
                note.set(value, {**self._tags, "note": name})


def _ray_runs() -> bool:
    """Whether this process has opened Ray; a bar must not be what imports it."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
