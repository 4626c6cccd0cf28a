"""Looks at a training that do not hold it up: Ray tasks, started and read by the driver.

A worker hands the averaged weights of a moment over as a file. A task on whichever node has room
looks at them, one moment after the other, and leaves what it found beside them. All that is known
lies in the stage's folder, so that a driver that comes back goes on with what waits there. A task
that dies is run again by Ray; one that fails for another reason is counted as missing.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray

from pipeline import storage, weights_file
from pipeline.placement import models_on
from pipeline.training.device import fixed_arithmetic
from pipeline.training.loop import SUMMARY, WEIGHTS
from pipeline.training.parallel import Replicated
from pipeline.training.settings import LoopSettings
from pipeline.training.spool import LOOKS, STEP, look_records
from pipeline.training.validation import Validation

MISSING = "validation_missing"
"""1 at a moment whose look has failed."""
RETRIES = 3
"""How often a task is run again whose process or node is gone."""


def look_at(settings: LoopSettings, weights_uri: str, samples_seen: int) -> dict[str, float]:
    """What `Validation` finds of published weights, in one process.

    Args:
        settings: The training; its device is where this process computes.
        weights_uri: A weights file of this training's model.
        samples_seen: Names the grids.
    """
    config = settings.config
    with fixed_arithmetic(config.execution.threads, settings.device, config.precision):
        model = settings.task.build()
        state, _ = weights_file.load_weights(weights_uri)
        weights_file.load_state(model, state, weights_uri)
        layout = Replicated(model, config, settings.device, rank=0, world=1)
        return Validation(settings, layout).look(samples_seen)


class SideLooks:
    """The looks at one training, from the driver; one runs at a time, in order."""

    def __init__(self, settings: LoopSettings, say: Callable[[str], None]) -> None:
        """Start nothing yet.

        Args:
            settings: The training.
            say: Tells people of a look that is missing.
        """
        execution = settings.config.execution
        self._uri, self._say = settings.uri, say
        self._folder = storage.join(settings.uri, LOOKS)
        device = "cuda:0" if execution.validate_gpus else "cpu"
        self._settings = ray.put(replace(settings, device=device))
        options: dict[str, Any] = {"num_cpus": execution.threads, "max_retries": RETRIES}
        options["label_selector"] = models_on() or {}
        if execution.validate_gpus:
            options["num_gpus"] = execution.validate_gpus
        self._task: Any = ray.remote(**options)(look_at)
        self._running: tuple[int, ray.ObjectRef] | None = None
        self._told: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a look was started that is not told yet."""
        return self._running is not None

    def advance(self) -> list[dict[str, Any]]:
        """Start what waits and read what is done; returns points that were not told before."""
        if self._running is not None and ray.wait([self._running[1]], timeout=0)[0]:
            self._collect(*self._running)
            self._running = None
        if self._running is None:
            self._start()
        new = look_records(self._uri, self._told)
        self._told.update(new)
        return list(new.values())

    def _start(self) -> None:
        waiting = next(self._waiting(), None)
        if waiting is not None:
            samples_seen, uri = waiting
            self._running = samples_seen, self._task.remote(self._settings, uri, samples_seen)

    def _waiting(self) -> Iterator[tuple[int, str]]:
        """Weights that nobody has looked at yet; those that are published at the end come last."""
        for name in storage.list_names(self._folder):
            if name.endswith(".safetensors"):
                yield int(name.partition(".")[0]), storage.join(self._folder, name)
        summary_uri = storage.join(self._uri, SUMMARY)
        if storage.exists(summary_uri):
            summary = storage.read_json(summary_uri)
            if not summary["final"] and not storage.exists(self._found_uri(summary["samples"])):
                yield summary["samples"], storage.join(self._uri, WEIGHTS)

    def _collect(self, samples_seen: int, done: ray.ObjectRef) -> None:
        try:
            found = ray.get(done)
        except Exception as error:  # whatever it is, the training goes on
            first = str(error).strip().splitlines()[-1]
            self._say(f"the look at {samples_seen} samples is missing, training goes on: {first}")
            found = {MISSING: 1.0}
        storage.write_json(self._found_uri(samples_seen), {STEP: samples_seen, **found})
        weights = storage.join(self._folder, f"{samples_seen:012d}.safetensors")
        if storage.exists(weights):
            storage.remove_file(weights)

    def _found_uri(self, samples_seen: int) -> str:
        return storage.join(self._folder, f"{samples_seen:012d}.json")


def found_at_the_end(uri: str, samples: int) -> dict[str, float]:
    """What a side task found of the published weights; empty where none looked at them."""
    found_uri = storage.join(uri, LOOKS, f"{samples:012d}.json")
    found = storage.read_json(found_uri) if storage.exists(found_uri) else {}
    return {name: value for name, value in found.items() if name != STEP}
