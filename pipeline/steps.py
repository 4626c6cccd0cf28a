"""Steps of a stage over rows, each a Ray Data graph; what is done is recorded and not done again.

A row's result is a small JSON mapping, written when all of the row's files are there. The same call
after any death goes on with the rows that have none. (Ray Data's own checkpoints keep rows of one
graph that ends in a file sink; here a row is a shard's or a bucket's whole work, its files are
written by the task, and later steps read its record, so the record is the checkpoint.)
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.partitions import Row, map_partitions
from pipeline.progress import Bar, Progress

Task = Callable[[Row], Row]


class Spent(NamedTuple):
    """What a row's work took."""

    started_s: float
    """Unix time."""
    ended_s: float
    cpu_s: float


class Steps:
    """Runs steps and keeps their results in one folder."""

    def __init__(self, folder: str, progress: Progress) -> None:
        """Work in a folder.

        Args:
            folder: For working files and records; another cut of the work needs another folder.
            progress: Where people see how far it is.
        """
        self.folder = folder
        self.spent: dict[str, list[Spent]] = {}
        """Per step, of every row, those of earlier calls included."""
        self._progress = progress

    def file(self, *parts: str) -> str:
        """A working file or folder."""
        return storage.join(self.folder, *parts)

    def run(self, name: str, task: Task, rows: Sequence[Row]) -> list[Row]:
        """Do a step's rows, as far as they are not recorded; results in the order of the rows.

        Args:
            name: Of the step; its records lie under it.
            task: A function of a module (or a partial of one): it travels to other processes.
                ``kept`` and ``dropped`` (counts by reason) of what it returns are shown.
            rows: What each task is given, with its ``number`` added.
        """
        folder = self.file("done", name)
        numbered = [{**row, "number": number} for number, row in enumerate(rows)]
        done: dict[int, Row] = {}
        with self._progress.stage(name, total=len(rows), unit="partitions") as bar:
            for file in storage.list_names(folder):
                number = int(file.removesuffix(".json"))
                done[number] = storage.read_json(storage.join(folder, file))
                _advance(bar, done[number]["result"])
            missing = [row for row in numbered if row["number"] not in done]
            for record in map_partitions(partial(_recorded, task=task, folder=folder), missing):
                done[record["number"]] = record
                _advance(bar, record["result"])
        return self._results(name, [done[number] for number in range(len(rows))])

    def once(self, name: str, work: Callable[[], Row]) -> Row:
        """Do a step in this process unless it is recorded."""
        record = _recorded({"number": 0}, lambda _: work(), self.file("done", name))
        return self._results(name, [record])[0]

    def forget(self, name: str, numbers: Iterable[int]) -> None:
        """Let the next call do rows again."""
        for number in numbers:
            storage.remove_file(_place(self.file("done", name), number))

    def intervals(self) -> list[tuple[float, float]]:
        """Unix times (s) between which rows were worked on."""
        return [(each.started_s, each.ended_s) for spent in self.spent.values() for each in spent]

    def _results(self, name: str, records: Sequence[Row]) -> list[Row]:
        self.spent[name] = [Spent(*record["spent"]) for record in records]
        return [record["result"] for record in records]


def result(folder: str, name: str, number: int) -> Row:
    """What a row of an earlier step gave; for tasks of a later one."""
    return storage.read_json(_place(storage.join(folder, "done", name), number))["result"]


def has_result(folder: str, name: str, number: int) -> bool:
    """Whether a row of a step is done."""
    return storage.exists(_place(storage.join(folder, "done", name), number))


def _place(folder: str, number: int) -> str:
    return storage.join(folder, f"{number:06d}.json")


def _recorded(row: Row, task: Task, folder: str) -> Row:
    """Do a row's work and record it, unless a killed task came so far."""
    place = _place(folder, row["number"])
    if storage.exists(place):
        return storage.read_json(place)
    started, cpu_s = time.time(), time.process_time()
    found: dict[str, Any] = task(row)
    spent = Spent(started, time.time(), time.process_time() - cpu_s)
    record = {"number": row["number"], "result": found, "spent": spent}
    storage.write_json(place, record)
    return record


def _advance(bar: Bar, found: Row) -> None:
    counts = {"kept": found["kept"]} if "kept" in found else {}
    if "dropped" in found:
        counts["dropped"] = sum(found["dropped"].values())
    bar.advance(1, **counts)
