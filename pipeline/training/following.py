"""How the driver follows a training: what workers leave in its folder goes to bar and tracker.

A thread looks now and then; a tracker that fails never stops a training.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline import storage
from pipeline.progress import Bar, Progress
from pipeline.training.node import READ_EVERY_S, SYSTEM
from pipeline.training.repeating import repeated
from pipeline.training.settings import LoopSettings
from pipeline.training.side import SideLooks
from pipeline.training.spool import STEP, SpoolTail
from pipeline.training.stragglers import Stragglers
from pipeline.training.validation import GRIDS

WATCH_EVERY_S = 0.5
MEASURES = ("gradient_norm", "data_wait_share", "mfu")
"""What dashboards show beside the loss and the steps that were not applied."""
NONFINITE = "nonfinite_steps"

OnMetrics = Callable[[Sequence[Mapping[str, Any]]], Any]
"""Takes spool records in order; records that were given before may come again after a restart."""
OnGrid = Callable[[str, int, str], Any]
"""Takes a picture grid, its ``samples_seen``, and what it is: ``grid`` or ``guidance``."""


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
        watcher = _Watcher(settings, progress, bar, on_metrics, on_grid)
        with watcher.running():
            yield
        watcher.look_last()


class _Watcher:
    """Follows a stage's folder from the driver: bar, metrics, pictures."""

    def __init__(
        self,
        settings: LoopSettings,
        progress: Progress,
        bar: Bar,
        on_metrics: OnMetrics,
        on_grid: OnGrid,
    ) -> None:
        uri, on_side = settings.uri, settings.config.execution.validate_on == "side"
        self._tail, self._grids, self._seen = SpoolTail(uri), storage.join(uri, GRIDS), set()
        self._progress, self._bar, self._stragglers = progress, bar, Stragglers(uri)
        self._side = SideLooks(settings, progress.say) if on_side else None
        self._uri, self._nodes, self._nodes_due_s = uri, dict[str, SpoolTail](), 0.0
        self._on_metrics, self._on_grid = on_metrics, on_grid
        self._complained, self._num_nonfinite = False, 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look now and then while the block runs."""
        self._bar.begin(self.look())
        with repeated(self.look, WATCH_EVERY_S, "watch-training"):
            yield

    def look(self) -> int:
        """Pass on what is new, and say how far the training is (samples seen).

        A tracker that fails never stops a training.
        """
        records = self._tail.new_records()
        if records:
            notes = {name: value for r in records for name, value in r.items() if name == "loss"}
            measures = {n: value for r in records for n, value in r.items() if n in MEASURES}
            self._num_nonfinite += sum(int(record.get(NONFINITE, 0)) for record in records)
            self._bar.measure(**measures, **{NONFINITE: self._num_nonfinite})
            self._bar.to(int(records[-1][STEP]), **notes)
            for message in self._stragglers.messages(records):
                self._progress.say(message)
        try:
            others = self._of_nodes() + ([] if self._side is None else self._side.advance())
            if records or others:
                self._on_metrics([*records, *others])
            self._pass_grids_on()
        except Exception as error:
            if not self._complained:
                self._progress.say(f"tracking failed, training goes on: {error}")
            self._complained = True
        return int(records[-1][STEP]) if records else 0

    def look_last(self) -> None:
        """Pass on what is left, to the last look of others."""
        self._nodes_due_s = 0.0
        self.look()
        while self._side is not None and self._side.is_busy:
            time.sleep(WATCH_EVERY_S)
            self.look()

    def _of_nodes(self) -> list[dict[str, Any]]:
        """What nodes told of themselves; there may be many, so they are asked less often."""
        if time.monotonic() < self._nodes_due_s:
            return []
        self._nodes_due_s = time.monotonic() + READ_EVERY_S
        for node in storage.list_names(storage.join(self._uri, SYSTEM)):
            self._nodes.setdefault(node, SpoolTail(self._uri, storage.join(SYSTEM, node)))
        return [record for tail in self._nodes.values() for record in tail.new_records()]

    def _pass_grids_on(self) -> None:
        for name in storage.list_names(self._grids):
            if name in self._seen:
                continue
            self._seen.add(name)
            uri = storage.join(self._grids, name)
            step, _, kind = name.removesuffix(".png").partition("-")
            self._on_grid(uri, int(step), kind or "grid")
