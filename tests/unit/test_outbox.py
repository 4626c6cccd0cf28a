"""An outbox sends everything once, in order, whatever the server does meanwhile."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.outbox import AwayError, Outbox, waiting


class Server:
    """Takes messages; away or hostile as told."""

    def __init__(self):
        self.taken, self.is_away, self.lock = [], False, threading.Lock()

    def __call__(self, message):
        with self.lock:
            if self.is_away:
                raise AwayError("nobody is at home")
            if message.get("hostile"):
                raise ValueError("I will never take this")
            self.taken.append(message["number"])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.booleans(), max_size=12), st.booleans())
def test_everything_is_sent_once_in_order(tmp_path_factory, away, dies):
    folder, server, said = str(tmp_path_factory.mktemp("outbox")), Server(), []
    outbox = Outbox(folder, server, said.append, retry_every_s=0.01)
    for number, is_away in enumerate(away):
        server.is_away = is_away
        outbox.add({"number": number})
        time.sleep(0.002)
    if dies:
        outbox.close(0.0)
        outbox = Outbox(folder, server, said.append, retry_every_s=0.01)
    server.is_away = False
    assert outbox.close(5.0) == 0
    assert server.taken == list(range(len(away)))
    assert waiting(folder) == []


def test_who_waits_is_told_at_once_that_the_server_is_away_and_once_only(tmp_path):
    server, said = Server(), []
    server.is_away = True
    outbox = Outbox(str(tmp_path), server, said.append, retry_every_s=0.01)
    outbox.add({"number": 0})
    outbox.add({"number": 1})
    time.sleep(0.2)
    assert len(said) == 1
    assert "nobody is at home" in said[0]
    assert str(tmp_path) in said[0]
    started = time.monotonic()
    assert outbox.close(60.0) == 2
    assert time.monotonic() - started < 5
    server.is_away = False
    assert Outbox(str(tmp_path), server, said.append).close(5.0) == 0
    assert server.taken == [0, 1]


def test_what_is_refused_for_good_is_kept_aside_and_holds_nobody_up(tmp_path):
    server, said = Server(), []
    outbox = Outbox(str(tmp_path), server, said.append)
    outbox.add({"number": 0, "hostile": True})
    outbox.add({"number": 1})
    assert outbox.close(5.0) == 0
    assert server.taken == [1]
    assert "I will never take this" in said[0]
    assert [path.name for path in (tmp_path / "refused").iterdir()] == ["000000000000.json"]


@pytest.mark.parametrize("request_", ["read_json", "remove_file"])
def test_a_store_that_stays_away_is_waited_for(tmp_path, monkeypatch, request_):
    server, said, asked = Server(), [], getattr(storage, request_)
    fails = iter([True, True, False, True])

    def request(uri):
        if next(fails, False):
            raise StorageError(f"{uri}: 8 attempts failed")
        return asked(uri)

    monkeypatch.setattr(storage, request_, request)
    outbox = Outbox(str(tmp_path), server, said.append, retry_every_s=0.01)
    for number in range(3):
        outbox.add({"number": number})
    until = time.monotonic() + 5
    while waiting(str(tmp_path)) and time.monotonic() < until:
        time.sleep(0.01)
    assert outbox.close(5.0) == 0
    assert list(dict.fromkeys(server.taken)) == [0, 1, 2]  # after a failed removal one comes again
    assert "8 attempts failed" in said[0]


def test_a_message_that_a_killed_process_was_writing_is_none(tmp_path):
    (tmp_path / "000000000000.tmp-1.json").write_text("{")
    server = Server()
    outbox = Outbox(str(tmp_path), server, print)
    outbox.add({"number": 7})
    assert outbox.close(5.0) == 0
    assert server.taken == [7]
    assert list(tmp_path.iterdir()) == []
