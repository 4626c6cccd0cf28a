import itertools
import os
import subprocess
import sys
import time

import pytest

from pipeline import lease, storage
from pipeline.errors import BusyError


def test_a_lease_is_gone_after_its_block(tmp_path):
    with lease.hold(str(tmp_path)):
        assert storage.read_json(str(tmp_path / lease.LEASE))["token"] == 1
    assert os.listdir(tmp_path) == []


def test_a_second_live_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.05)
    with (
        lease.hold(str(tmp_path)),
        pytest.raises(BusyError, match="choose another output_dir"),
        lease.hold(str(tmp_path), watch_s=2.0),
    ):
        pass


def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path):
    code = f"""
import os
from pipeline import lease
with lease.hold({str(tmp_path)!r}):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with lease.hold(str(tmp_path), watch_s=60.0):
        assert storage.read_json(str(tmp_path / lease.LEASE))["token"] == 2


def test_what_a_killed_holder_was_writing_is_removed_and_nothing_else(tmp_path):
    inside = tmp_path / "stage" / f"x{storage.TEMPORARY_MARK}1.json"
    inside.parent.mkdir()
    for path in (tmp_path / f"lease{storage.TEMPORARY_MARK}0.json", inside):
        path.write_text("{")
    with lease.hold(str(tmp_path)):
        assert sorted(os.listdir(tmp_path)) == [lease.LEASE, "stage"]
    assert inside.exists()  # that is for its stage to decide


def test_a_lease_of_another_host_that_stands_still_is_taken_over(tmp_path):
    uri = str(tmp_path / lease.LEASE)
    dead = {"owner": "x", "token": 4, "beat": 9, "pid": 1, "host": "far", "process_started": 0}
    storage.write_json(uri, dead)
    with lease.hold(str(tmp_path), watch_s=0.2):
        assert storage.read_json(uri)["token"] == 5


@pytest.mark.parametrize("left", [None, 4])
def test_of_many_that_begin_at_once_one_holds_and_the_others_are_told(tmp_path, left):
    """In a new folder, and in one that a dead run of another host has left."""
    if left is not None:
        dead = {"owner": "x", "token": left, "beat": 9, "pid": 1, "host": "far"}
        storage.write_json(str(tmp_path / lease.LEASE), {**dead, "process_started": 0})
    code = f"""
import sys
from pipeline import lease
from pipeline.errors import BusyError
lease.BEAT_EVERY_S = 0.05
print("ready", flush=True)
sys.stdin.readline()
try:
    with lease.hold({str(tmp_path)!r}, watch_s=3.0):
        print("held", flush=True)
        sys.stdin.readline()
except BusyError:
    print("told", flush=True)
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert hear(started) == ["ready\n"] * 4
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = hear(started)
    for process in started:
        process.communicate("\n", timeout=60)
    assert sorted(said) == ["held\n"] + ["told\n"] * 3
    assert [process.returncode for process in started] == [0] * 4
    assert os.listdir(tmp_path) == []


def hear(processes):
    return [process.stdout.readline() for process in processes]


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
def test_a_clock_that_jumps_takes_no_lease_away(tmp_path, monkeypatch, jump_s):
    """By a day, forth and back, at the holder and at who comes second."""
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.05)
    real, calls = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + jump_s * (next(calls) % 2))
    with lease.hold(str(tmp_path)):
        before = storage.read_json(str(tmp_path / lease.LEASE))
        started = time.monotonic()
        with pytest.raises(BusyError), lease.hold(str(tmp_path), watch_s=10.0):
            pass
        assert time.monotonic() - started < 10  # told by the first beat
        after = storage.read_json(str(tmp_path / lease.LEASE))
        assert (after["owner"], after["token"]) == (before["owner"], before["token"])
    dead = {"owner": "x", "token": 4, "beat": 9, "pid": 1, "host": "far", "process_started": 0}
    storage.write_json(str(tmp_path / lease.LEASE), dead)
    with lease.hold(str(tmp_path), watch_s=0.2):
        assert storage.read_json(str(tmp_path / lease.LEASE))["token"] == 5
