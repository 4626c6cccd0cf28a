"""One live run per output folder: a lease file that its holder keeps counting up.

No decision is made by comparing clocks of two hosts. Whoever finds a lease watches its count for
a while by a clock of its own; a count that stands still belongs to a dead run and is taken over
with a higher token. Outputs are content-identical anyway, so a lost race costs work, not data.
"""

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
from pipeline.errors import BusyError

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
    token = _token_after(uri, watch_s)
    owner = uuid.uuid4().hex
    stop = threading.Event()
    _write(uri, owner, token, 0)
    storage.remove_temporary(output_dir, below=False)  # of a holder that was killed
    thread = threading.Thread(target=_beat, args=(uri, owner, token, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if _read(uri).get("owner") == owner and storage.is_local(uri):
            storage.local_path(uri).unlink(missing_ok=True)


def holder(output_dir: str) -> str | None:
    """Which process wrote the lease of an output folder last; None where there is none.

    Whether it still lives only a watch over some seconds could tell (``hold``), unless it ran here.
    """
    found = _read(storage.join(output_dir, LEASE))
    if not found or _died_here(found):
        return None
    return f"process {found['pid']} on {found['host']}, beat {found['beat']}"


def _token_after(uri: str, watch_s: float) -> int:
    found = _read(uri)
    if not found:
        return 1
    if not _died_here(found):
        deadline = time.monotonic() + watch_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, watch_s / 4))
            now = _read(uri)
            if not now:
                return int(found["token"]) + 1
            if (now["owner"], now["beat"]) != (found["owner"], found["beat"]):
                raise BusyError(
                    f"{uri}: process {now['pid']} on {now['host']} is writing here; "
                    "wait for it or choose another output_dir"
                )
    return int(found["token"]) + 1


def _died_here(lease: dict[str, Any]) -> bool:
    """Whether the holder was a process of this host (and boot) that no longer runs."""
    if lease["host"] != socket.gethostname():
        return False
    try:
        return psutil.Process(lease["pid"]).create_time() != lease["process_started"]
    except psutil.NoSuchProcess:
        return True


def _beat(uri: str, owner: str, token: int, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(BEAT_EVERY_S):
        if _read(uri).get("owner") != owner:
            return
        beat += 1
        _write(uri, owner, token, beat)


def _write(uri: str, owner: str, token: int, beat: int) -> None:
    storage.write_json(
        uri,
        {
            "owner": owner,
            "token": token,
            "beat": beat,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "process_started": psutil.Process().create_time(),
        },
    )


def _read(uri: str) -> dict[str, Any]:
    try:
        return storage.read_json(uri)
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
