"""Messages for a server that may be away: each a file, sent in order by a thread, never lost.

A message is a small file in the outbox's folder until the server has taken it. So nobody waits for
the server, and what a killed process left is sent by the next one. A message that was sent while
the process died, or the store of the folder was away, may be sent twice: the sender makes
repetition harmless where that matters.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pipeline import storage
from pipeline.errors import StorageError

Message = dict[str, Any]
"""Plain JSON."""
RETRY_EVERY_S = 5.0
REFUSED = "refused"
"""Folder, inside the outbox's, of messages that the server will never take."""


class AwayError(Exception):
    """The server does not answer, or not now."""


class Outbox:
    """One folder of messages and the thread that sends them."""

    def __init__(
        self,
        folder: str,
        send: Callable[[Message], None],
        say: Callable[[str], None],
        retry_every_s: float = RETRY_EVERY_S,
    ) -> None:
        """Begin to send what an earlier process left.

        Args:
            folder: URI of the outbox's folder.
            send: Delivers one message; raises `AwayError` to be called with it again later. Any
                other error sets the message aside.
            say: Tells people what they must know.
            retry_every_s: Pause before a server that was away is tried again.
        """
        self._folder, self._send, self._say = folder, send, say
        self._retry_every_s = retry_every_s
        storage.remove_temporary(folder)
        names = waiting(folder)
        self._waiting = deque(names)
        self._next = int(names[-1].removesuffix(".json")) + 1 if names else 0
        self._changed = threading.Condition()
        self._ends = self._is_away = False
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def add(self, message: Message) -> None:
        """Keep a message and wake the sender; from now on it cannot be lost."""
        name = f"{self._next:012d}.json"
        self._next += 1
        storage.write_json(storage.join(self._folder, name), message)
        with self._changed:
            self._waiting.append(name)
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> int:
        """Wait until everything is sent, or the server is found away; returns what is left."""
        until_s = time.monotonic() + timeout_s
        with self._changed:
            self._is_away = False
            self._changed.notify_all()
            while self._waiting and not self._is_away and time.monotonic() < until_s:
                self._changed.wait(timeout=until_s - time.monotonic())
            return len(self._waiting)

    def close(self, timeout_s: float) -> int:
        """Drain, and end the thread; returns the number of messages that wait for the next call."""
        left = self.drain(timeout_s)
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._thread.join(1.0)  # not for ever: it may stand in a call that nobody answers
        return left

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ends:
                    self._changed.wait()
                if self._ends:
                    return
                name = self._waiting[0]
            try:
                self._deliver(name)
            except (AwayError, StorageError) as error:
                self._pause(error)
                continue
            with self._changed:
                self._waiting.popleft()
                if self._is_away:
                    self._say("tracking: the server answers again")
                self._is_away = False
                self._changed.notify_all()

    def _deliver(self, name: str) -> None:
        uri = storage.join(self._folder, name)
        message = storage.read_json(uri)
        try:
            self._send(message)
        except AwayError:
            raise
        except Exception as error:  # whatever it is, the messages behind it must not wait for it
            aside = storage.join(self._folder, REFUSED, name)
            storage.write_bytes(aside, storage.read_bytes(uri))
            self._say(f"tracking: refused for good, kept as {aside}: {error}")
        storage.remove_file(uri)

    def _pause(self, error: AwayError | StorageError) -> None:
        with self._changed:
            if not self._is_away and not self._ends:
                self._say(
                    f"tracking: {error}; the work goes on, what is tracked waits in {self._folder}"
                )
            self._is_away = True
            self._changed.notify_all()
            until_s = time.monotonic() + self._retry_every_s
            while self._is_away and not self._ends and time.monotonic() < until_s:
                self._changed.wait(timeout=until_s - time.monotonic())


def waiting(folder: str) -> list[str]:
    """Names of the messages in an outbox's folder, in their order."""
    return [name for name in storage.list_names(folder) if name.endswith(".json")]
