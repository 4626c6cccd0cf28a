"""MLflow, driven from the driver alone: one parent run per chain, one child run per stage.

Everything goes through an outbox (``outbox``), whose thread sends it in order (``tracking_store``),
so that no stage waits for a server and nothing is lost while one is away; what waits at the end of
a call is sent by the next. ``tracking.json`` remembers which run belongs to which result and how
far its metrics were handed over, so that a resumed chain goes on in the same runs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline import outbox, storage
from pipeline.outbox import Outbox
from pipeline.tracking_store import (
    AT_MS,
    PARENT,
    STEP,
    WHEN,
    Book,
    Sender,
    TrackingConfig,
    store_uri,
)

OUTBOX = "tracking"
"""Folder, in the output folder, of what is not sent yet."""
DRAIN_S = 60.0
"""So long a call waits at its end for what is being sent."""


def key_of(stage: str, identity: str) -> str:
    """Under which `tracking.json` knows a result's run."""
    return f"{stage}/{identity[:12]}"


def known_run(output_dir: str, stage: str, identity: str) -> str | None:
    """MLflow's id of a run, None where there is none yet."""
    return Book(output_dir).run_id(key_of(stage, identity))


def parent_run(output_dir: str) -> str | None:
    """MLflow's id of the chain's own run, None where there is none yet."""
    return Book(output_dir).run_id(PARENT)


def waits(output_dir: str) -> bool:
    """Whether an earlier call left something to send."""
    return bool(outbox.waiting(storage.join(output_dir, OUTBOX)))


class Tracking:
    """One chain's MLflow runs."""

    def __init__(
        self,
        config: TrackingConfig,
        output_dir: str,
        name: str,
        say: Callable[[str], None],
    ) -> None:
        """Find the runs of earlier calls; nothing is asked of the store here.

        Args:
            config: Where to track.
            output_dir: Of the chain.
            name: Of the chain's own run.
            say: Tells people when the store is away.
        """
        self.uri = store_uri(config, output_dir)
        if storage.is_local(output_dir):
            storage.local_path(output_dir).mkdir(parents=True, exist_ok=True)
        self._name, self._book = name, Book(output_dir)
        sender = Sender(config, output_dir, self._book)
        self._outbox = Outbox(storage.join(output_dir, OUTBOX), sender, say)
        self._say = say

    def start(self) -> None:
        """Create the chain's own run, or open it again."""
        self._book.save()
        self._add(PARENT, "start", name=self._name, tags={}, upstream={})

    def stage(
        self,
        name: str,
        identity: str,
        tags: Mapping[str, str],
        upstream: Mapping[str, str],
    ) -> "StageRun":
        """The child run of one result, created on the first call for this identity.

        Args:
            name: Of the stage.
            identity: Of the result.
            tags: What else is known of it.
            upstream: Identity of each stage that it stands on, by name.
        """
        key = key_of(name, identity)
        keys = {stage: key_of(stage, known) for stage, known in upstream.items()}
        run = StageRun(self._add, self._book, key)
        self._add(key, "start", name=name, tags={"identity": identity, **tags}, upstream=keys)
        return run

    def finish(self, status: str, metrics: Mapping[str, float], artifacts: Sequence[str]) -> None:
        """Close the parent run with the chain's headline numbers and files, and send what waits.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
            metrics: Headline numbers.
            artifacts: URIs of files to keep with the parent run.
        """
        _end(self._add, PARENT, status, metrics, artifacts)
        self.close()

    def close(self) -> None:
        """Send what waits; what the store does not take now is left for the next call."""
        left = self._outbox.close(DRAIN_S)
        if left:
            self._say(f"tracking: {left} messages wait for {self.uri}; the next call sends them")

    def _add(self, key: str, kind: str, **content: Any) -> None:  # noqa: ANN401 - plain JSON
        self._outbox.add({"key": key, "do": kind, "at_ms": int(time.time() * 1000), **content})


_Add = Callable[..., None]


def _end(
    add: _Add, key: str, status: str, metrics: Mapping[str, float], artifacts: Sequence[str]
) -> None:
    add(key, "metrics", records=[{STEP: 0, **metrics}])
    for uri in artifacts:
        add(key, "artifact", path=storage.absolute(uri))
    add(key, "end", status=status)


class StageRun:
    """The MLflow run of one stage."""

    def __init__(self, add: _Add, book: Book, key: str) -> None:
        """Made by ``Tracking.stage``."""
        self._add, self._book, self._key = add, book, key
        self._entry = book.entry(key)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run, None until the store has created it."""
        return self._book.run_id(self._key)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Keep the stage's whole configuration as an artifact."""
        self._add(self._key, "config", content=dict(config))

    def publish(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Hand over spool records (``samples_seen`` and metrics), each number once.

        Args:
            records: The numbers of each name in order; those of an earlier call may come again.
        """
        new = [left for left in map(self._unpublished, records) if left]
        if new:
            self._add(self._key, "metrics", records=new)
            self._book.save()

    def _unpublished(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What of a record was not handed over, and is from now on.

        Every name has its own place: what looks from outside find comes after later steps.
        """
        place, known = int(record.get(AT_MS, record[STEP])), self._entry["published"]
        names = [n for n in record if n not in WHEN and place > known.get(n, -1)]
        known.update(dict.fromkeys(names, place))
        return {name: record[name] for name in [*names, *WHEN] if name in record} if names else {}

    def log_picture(self, uri: str, samples_seen: int, series: str = "grid") -> None:
        """Keep a picture grid under its step; ``series`` names what it is one of."""
        place = storage.absolute(uri)
        self._add(self._key, "picture", path=place, step=samples_seen, series=series)

    def finish(self, status: str, metrics: Mapping[str, float], artifacts: Sequence[str]) -> None:
        """Close the run; arguments as for ``Tracking.finish``."""
        _end(self._add, self._key, status, metrics, artifacts)
