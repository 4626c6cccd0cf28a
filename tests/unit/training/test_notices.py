"""What reaches the driver reaches the workers, and a slow worker is named once."""

import signal
import time

import pytest

from pipeline import storage
from pipeline.training import notices
from pipeline.training.notices import Notices, passed_on
from pipeline.training.stragglers import WORKERS, Stragglers


@pytest.fixture
def uri(tmp_path, monkeypatch):
    monkeypatch.setattr(notices, "LOOK_EVERY_S", 0.0)
    return str(tmp_path)


def test_a_notice_is_seen_once(uri):
    worker = Notices(uri)
    assert worker.new() is None
    notices.give(uri, "checkpoint")
    assert [worker.new(), worker.new()] == ["checkpoint", None]
    notices.give(uri, "stop")
    assert [worker.new(), worker.new()] == ["stop", None]
    notices.withdraw(uri)
    assert worker.new() is None


def test_workers_do_not_look_at_every_step(tmp_path):
    worker = Notices(str(tmp_path))
    worker.new()
    notices.give(str(tmp_path), "stop")
    assert worker.new() is None


def test_sigterm_becomes_a_notice_and_a_second_one_is_as_before(uri):
    before = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(InterruptedError))
    try:
        notices.give(uri, "stop")  # of an earlier call
        with passed_on(uri, grace_s=60.0):
            assert Notices(uri).new() is None
            signal.raise_signal(signal.SIGTERM)
            assert Notices(uri).new() == "stop"
            with pytest.raises(InterruptedError):
                signal.raise_signal(signal.SIGTERM)
        assert Notices(uri).new() is None
        with pytest.raises(InterruptedError):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_workers_that_do_not_stop_are_interrupted_after_the_grace(uri):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), passed_on(uri, grace_s=0.2):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(30)
    assert 0.2 <= time.monotonic() - started < 20


def test_a_slow_worker_is_named_once_with_its_machine(uri):
    storage.write_json(f"{uri}/{WORKERS}", ["left", "right"])

    def point(worker, slowest, median):
        return {
            "slowest_worker": worker,
            "own_step_s_slowest": slowest,
            "own_step_s_median": median,
        }

    stragglers = Stragglers(uri)
    assert stragglers.messages([{"loss": 1.0}, point(1, 1.4, 1.0)]) == []
    told = stragglers.messages([point(1, 2.0, 1.0), point(1, 3.0, 1.0)])
    assert told == [
        "worker 1 on right needs 2 s of its own per step, the median worker 1 s: all wait for it"
    ]
    assert len(stragglers.messages([point(0, 2.0, 1.0), point(1, 9.0, 1.0)])) == 1
