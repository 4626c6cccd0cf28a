"""Which worker holds the others up, in words."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline import storage

WORKERS = "workers.json"
"""Names of the machines on which a run's workers are, by number."""
SLOW = 1.5
"""Times the median worker's own seconds per step from which a worker is named."""


class Stragglers:
    """Names each slow worker of a training once."""

    def __init__(self, uri: str) -> None:
        """Of the training in the folder."""
        self._uri = storage.join(uri, WORKERS)
        self._named: set[int] = set()

    def messages(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """What new points of the spool say of workers that were not named before."""
        found = []
        for record in records:
            worker = int(record.get("slowest_worker", -1))
            slowest, median = (
                record.get("own_step_s_slowest", 0),
                record.get("own_step_s_median", 0),
            )
            if worker in self._named or slowest <= SLOW * median:
                continue
            self._named.add(worker)
            found.append(
                f"worker {worker} on {self._machine(worker)} needs {slowest:.3g} s of its own per "
                f"step, the median worker {median:.3g} s: all wait for it"
            )
        return found

    def _machine(self, worker: int) -> str:
        machines = storage.read_json(self._uri) if storage.exists(self._uri) else []
        return machines[worker] if worker < len(machines) else "a machine of unknown name"
