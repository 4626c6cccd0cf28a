"""How the driver follows a training: what workers leave in its folder goes to bar and tracker.

A thread looks now and then; a tracker that fails never stops a training.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.progress import Bar, Progress
from pipeline.training.settings import LoopSettings
from pipeline.training.spool import STEP, SpoolTail
from pipeline.training.stragglers import Stragglers

WATCH_EVERY_S = 0.5

OnMetrics = Callable[[Sequence[Mapping[str, Any]]], Any]
"""Takes spool records in order; records that were given before may come again after a restart."""
OnGrid = Callable[[Path, int], Any]
"""Takes a picture grid and its ``samples_seen``."""


@contextmanager
def followed(
    settings: LoopSettings,
    name: str,
    progress: Progress,
    on_metrics: OnMetrics,
    on_grid: OnGrid,
) -> Iterator[None]:
    """Follow the training that the block runs, to its last word.

    Args:
        settings: The run.
        name: What people see beside the bar.
        progress: Where to tell people how far it is.
        on_metrics: Called with new metrics, in a thread of its own.
        on_grid: Called with new picture grids, likewise.
    """
    total = settings.num_steps * settings.config.global_batch_size
    with progress.stage(name, total=total, unit="samples") as bar:
        watcher = _Watcher(settings.uri, progress, bar, on_metrics, on_grid)
        with watcher.running():
            yield
        watcher.look()


class _Watcher:
    """Follows a stage's folder from the driver: bar, metrics, pictures."""

    def __init__(
        self, uri: str, progress: Progress, bar: Bar, on_metrics: OnMetrics, on_grid: OnGrid
    ) -> None:
        self._tail, self._grids, self._seen = SpoolTail(uri), storage.join(uri, "grids"), set()
        self._progress, self._bar, self._stragglers = progress, bar, Stragglers(uri)
        self._on_metrics, self._on_grid = on_metrics, on_grid
        self._complained = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look now and then while the block runs."""
        self._bar.begin(self.look())
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(WATCH_EVERY_S):
                self.look()

        thread = threading.Thread(target=watch, name="watch-training", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def look(self) -> int:
        """Pass on what is new, and say how far the training is (samples seen).

        A tracker that fails never stops a training.
        """
        records = self._tail.new_records()
        if records:
            notes = {name: value for r in records for name, value in r.items() if name == "loss"}
            self._bar.to(int(records[-1][STEP]), **notes)
            for message in self._stragglers.messages(records):
                self._progress.say(message)
        try:
            if records:
                self._on_metrics(records)
            self._pass_grids_on()
        except Exception as error:
            if not self._complained:
                self._progress.say(f"tracking failed, training goes on: {error}")
            self._complained = True
        return int(records[-1][STEP]) if records else 0

    def _pass_grids_on(self) -> None:
        for name in storage.list_names(self._grids):
            if name in self._seen:
                continue
            self._seen.add(name)
            path = storage.local_path(storage.join(self._grids, name))
            self._on_grid(path, int(name.removesuffix(".png")))
