"""One live run per output folder: a lease file that its holder keeps counting up.

No decision is made by comparing clocks of two hosts. Whoever finds a lease watches its count for
a while by a clock of its own; a count that stands still belongs to a dead run and is taken over
with a higher token. Of several that find the same, one takes it: in a folder they come one after
the other, on a store by its conditions (``If-None-Match``, ``If-Match``). Where a store keeps none,
a lost race costs work, not data: outputs are content-identical.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from pipeline import storage
from pipeline.errors import BusyError, StorageError

LEASE = "lease.json"
BEAT_EVERY_S = 5.0
WATCH_S = 20.0


@contextmanager
def hold(output_dir: str, watch_s: float = WATCH_S) -> Iterator[None]:
    """Hold the output folder's lease for the length of the block.

    Raises:
        BusyError: A live run holds it.
    """
    uri = storage.join(output_dir, LEASE)
    found = _left(uri, watch_s)
    owner, token = uuid.uuid4().hex, int(found.get("token", 0)) + 1
    stop = threading.Event()
    with _one_after_the_other(output_dir):
        version = _refuse_if_it_lives(uri, found)
        try:
            version = _write(uri, owner, token, 0, version)
        except FileExistsError as error:
            raise BusyError(
                f"{uri}: another run has just begun to write here; wait for it or choose another "
                "output_dir"
            ) from error
        storage.remove_temporary(output_dir, below=False)  # of a holder that was killed
    beat = (uri, owner, token, version, stop)
    thread = threading.Thread(target=_beat, args=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(StorageError):  # of a store that is away; it is found dead later
            if _read(uri)[0].get("owner") == owner:
                storage.remove_file(uri)


def holder(output_dir: str) -> str | None:
    """Which process wrote the lease of an output folder last; None where there is none.

    Whether it still lives only a watch over some seconds could tell (``hold``), unless it ran here.
    """
    found, _ = _read(storage.join(output_dir, LEASE))
    if not found or _died_here(found):
        return None
    return f"process {found['pid']} on {found['host']}, beat {found['beat']}"


def _left(uri: str, watch_s: float) -> dict[str, Any]:
    """The lease that a dead run has left; empty where there is none.

    Raises:
        BusyError: Its holder lives.
    """
    found, _ = _read(uri)
    if found and not _died_here(found):
        deadline = time.monotonic() + watch_s
        while time.monotonic() < deadline and _read(uri)[0]:
            time.sleep(min(1.0, watch_s / 4))
            _refuse_if_it_lives(uri, found)
    return found


def _refuse_if_it_lives(uri: str, found: dict[str, Any]) -> str | None:
    """Refuse a lease that was written since it was found; returns the version that is there."""
    now, version = _read(uri)
    if now and (now["owner"], now["beat"]) != (found.get("owner"), found.get("beat")):
        raise BusyError(
            f"{uri}: process {now['pid']} on {now['host']} is writing here; "
            "wait for it or choose another output_dir"
        )
    return version


@contextmanager
def _one_after_the_other(output_dir: str) -> Iterator[None]:
    """Nobody else is in this block for the same folder, where its file system has locks."""
    if not storage.is_local(output_dir):
        yield
        return
    folder = storage.local_path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _died_here(lease: dict[str, Any]) -> bool:
    """Whether the holder was a process of this host (and boot) that no longer runs."""
    if lease["host"] != socket.gethostname():
        return False
    try:
        return psutil.Process(lease["pid"]).create_time() != lease["process_started"]
    except psutil.NoSuchProcess:
        return True


def _beat(uri: str, owner: str, token: int, version: str | None, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(BEAT_EVERY_S):
        try:
            if _read(uri)[0].get("owner") != owner:
                return
            version = _write(uri, owner, token, beat + 1, version)
            beat += 1
        except FileExistsError:
            return
        except StorageError:
            continue  # the store is away for others too


def _write(uri: str, owner: str, token: int, beat: int, version: str | None) -> str | None:
    content = {
        "owner": owner,
        "token": token,
        "beat": beat,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process_started": psutil.Process().create_time(),
    }
    return storage.write_over(uri, storage.as_json(content), version)


def _read(uri: str) -> tuple[dict[str, Any], str | None]:
    """The lease, empty where there is none, and its version."""
    try:
        content, version = storage.read_version(uri)
    except FileNotFoundError:
        return {}, None
    try:
        return json.loads(content), version
    except json.JSONDecodeError:
        return {}, version
