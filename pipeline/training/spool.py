"""The metrics spool: what rank 0 measures, kept beside the checkpoints until somebody reads it.

``metrics/00001.jsonl, 00002.jsonl, …`` hold one JSON object per point with ``samples_seen``; the
last file is replaced whole as it grows, so a reader never sees half a line. A run that resumes
starts a new file and repeats the points since its checkpoint: `read` keeps the last of each.
No training step waits for a tracking server (contract 20).
"""

import json
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage

LINES_PER_FILE = 1_000
FLUSH_EVERY_S = 5.0
STEP = "samples_seen"
METRICS = "metrics"
LOOKS = "looks"
"""Folder of the points that looks from outside the training have left, and of averaged weights that
wait for such a look: named by ``samples_seen``."""


class Lines:
    """Writer of one attempt's points into the files of a folder."""

    def __init__(self, folder: str) -> None:
        """Start a new file after those of earlier attempts."""
        self._folder = folder
        names = storage.list_names(folder)
        self._number = 1 + max((int(name.removesuffix(".jsonl")) for name in names), default=0)
        self.name = f"{self._number:05d}"
        """Of the attempt."""
        self._lines: list[str] = []
        self._flushed = 0
        self._writing = threading.Lock()

    def add(self, point: Mapping[str, Any]) -> None:
        """Hold a point until the next flush."""
        self._lines.append(json.dumps(point))

    def flush(self) -> None:
        """Publish what is held; any thread may call it."""
        with self._writing:
            held = len(self._lines)  # another thread may add to them from here on
            if self._flushed == held:
                return
            name = f"{self._number:05d}.jsonl"
            content = "".join(line + "\n" for line in self._lines[:held])
            storage.write_bytes(storage.join(self._folder, name), content.encode())
            self._flushed = held
            if held >= LINES_PER_FILE:
                self._number += 1
                del self._lines[:held]
                self._flushed = 0


class Spool:
    """Writer of one attempt; owned by rank 0."""

    def __init__(self, uri: str) -> None:
        """Start a new file after those of earlier attempts.

        Args:
            uri: Folder of the stage.
        """
        self._lines = Lines(storage.join(uri, METRICS))
        self._work_uri = storage.join(uri, "work", f"{self._lines.name}.json")
        self._started = time.time()
        self._last_flush = time.monotonic()

    def add(self, samples_seen: int, values: Mapping[str, float]) -> None:
        """Add a point; files are written when some seconds have passed."""
        self._lines.add({STEP: samples_seen, **values})
        if time.monotonic() - self._last_flush >= FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Publish what is held, and how long this attempt has worked; any thread may call it."""
        self._last_flush = time.monotonic()
        interval = {"started_s": self._started, "ended_s": time.time()}
        storage.write_json(self._work_uri, interval)
        self._lines.flush()


@dataclass
class SpoolTail:
    """Reader that returns each line once, in the order of writing."""

    uri: str
    """Folder of the stage."""
    part: str = METRICS
    """Folder of the files, in it."""
    _read: dict[str, int] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)

    def new_records(self) -> list[dict[str, Any]]:
        """Points that were published since the last call."""
        folder = storage.join(self.uri, self.part)
        names = [name for name in storage.list_names(folder) if name not in self._finished]
        records: list[dict[str, Any]] = []
        for name in names:
            lines = storage.read_bytes(storage.join(folder, name)).decode().splitlines()
            records += [json.loads(line) for line in lines[self._read.get(name, 0) :]]
            self._read[name] = len(lines)
        self._finished.update(names[:-1])  # only the newest file still grows
        return records


def read(uri: str) -> list[dict[str, Any]]:
    """All points of a run by ``samples_seen``, those of others' looks too; of repeated the last."""
    latest: dict[int, dict[str, Any]] = {}
    for record in [*SpoolTail(uri).new_records(), *look_records(uri).values()]:
        known = latest.setdefault(int(record[STEP]), {})
        known.update(record)
    return [latest[step] for step in sorted(latest)]


def look_records(uri: str, told: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Points that looks from outside the training have left, by the names of their files.

    Args:
        uri: Folder of the stage.
        told: Names that are known already.
    """
    folder = storage.join(uri, LOOKS)
    names = [n for n in storage.list_names(folder) if n.endswith(".json") and n not in told]
    return {name: storage.read_json(storage.join(folder, name)) for name in names}


def work_intervals(uri: str) -> list[tuple[float, float]]:
    """Unix times (s) between which the attempts of a run worked."""
    folder = storage.join(uri, "work")
    parts = [storage.read_json(storage.join(folder, name)) for name in storage.list_names(folder)]
    return [(float(part["started_s"]), float(part["ended_s"])) for part in parts]
