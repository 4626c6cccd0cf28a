"""One live run per output folder: a lease file that its holder keeps counting up.

No decision is made by comparing clocks of two hosts. Whoever finds a lease watches its count for
a while by a clock of its own; a count that stands still belongs to a dead run and is taken over
with a higher token. On a store that keeps its conditions (``If-None-Match``, ``If-Match``) one of
several gets it; elsewhere a lost race costs work, not data: outputs are content-identical anyway.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    token, version = _token_after(uri, watch_s)
    owner = uuid.uuid4().hex
    stop = threading.Event()
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
        with suppress(StorageError):  # of a store that is away; it is found dead later
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


def _token_after(uri: str, watch_s: float) -> tuple[int, str | None]:
    """The next token, and the version of the dead run's lease that it stands over."""
    found, version = _read(uri)
    if not found:
        return 1, version
    if not _died_here(found):
        deadline = time.monotonic() + watch_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, watch_s / 4))
            now, version = _read(uri)
            if not now:
                return int(found["token"]) + 1, version
            if (now["owner"], now["beat"]) != (found["owner"], found["beat"]):
                raise BusyError(
                    f"{uri}: process {now['pid']} on {now['host']} is writing here; "
                    "wait for it or choose another output_dir"
                )
    return int(found["token"]) + 1, version


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
