"""Checkpoints are written beside the training, whole or not at all, for any number of workers."""

import errno
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import checkpoints
from pipeline.errors import StorageError
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import train_loop
from tests.gloo import Error, run_on
from tests.synthetic import loop_settings, make_dataset, train_config

POINTS = ["before_files", "after_files", "before_manifest", "after_manifest", "after_unlisting"]


def nothing():
    pass


def state(value):
    return {
        "model": {f"weight{n}": torch.full((5, n + 1), float(value)) for n in range(4)},
        "progress": {"step": torch.tensor(value)},
    }


def values(uri):
    found = state(-1)
    position = checkpoints.load(uri, found)
    assert position == found["progress"]["step"]
    return {float(x) for tensor in found["model"].values() for x in tensor.flatten()}


def test_what_is_written_is_the_moment_of_the_call(tmp_path):
    writer, live, flushed = Checkpointer(str(tmp_path), 2, 0, 1), state(3), threading.Event()
    writer.start(live, 3, before=lambda: bool(flushed.wait(60)))
    assert writer.is_writing
    for tensor in live["model"].values():
        tensor.fill_(9)
    assert checkpoints.latest(str(tmp_path)) is None
    flushed.set()
    writer.wait()
    assert values(checkpoints.latest(str(tmp_path))) == {3.0}


def test_one_at_a_time_and_the_last_are_kept(tmp_path):
    writer, live = Checkpointer(str(tmp_path), 2, 0, 1), state(0)
    for step in range(1, 5):
        for tensor in live["model"].values():
            tensor.fill_(step)
        live["progress"]["step"].fill_(step)
        writer.start(live, step, before=nothing)
    writer.wait()
    kept = checkpoints.completed(str(tmp_path))
    assert [values(uri) for uri in kept] == [{3.0}, {4.0}]


def full_disk(monkeypatch, after):
    """The disk is full from the ``after``-th fsync of the writing thread on; returns the switch."""
    passed, full, real = [], threading.Event(), os.fsync
    full.set()

    def fsync(descriptor):
        if threading.current_thread().name == "checkpoint":
            passed.append(descriptor)
            if len(passed) > after and full.is_set():
                raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return full


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_is_told_at_the_next_look_and_leaves_nothing(tmp_path, monkeypatch, after):
    writer = Checkpointer(str(tmp_path), 2, 0, 1)
    writer.start(state(1), 1, before=nothing)
    writer.wait()
    full = full_disk(monkeypatch, after)
    writer.start(state(2), 2, before=nothing)
    with pytest.raises(StorageError, match="the disk is full"):
        writer.wait()
    assert checkpoints.clean(str(tmp_path)) == (["step-000000000002"] if after == 2 else [])
    assert values(checkpoints.latest(str(tmp_path))) == {1.0}
    writer.check()
    full.clear()
    writer.start(state(3), 3, before=nothing)
    writer.wait()
    assert values(checkpoints.latest(str(tmp_path))) == {3.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def often(**changes):
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e-9}
    return train_config(execution=execution, **changes)


def weights(settings):
    return load_file(f"{settings.uri}/weights.safetensors")


def test_a_run_stopped_by_a_full_disk_goes_on_when_there_is_space(dataset, tmp_path, monkeypatch):
    whole = loop_settings(dataset, tmp_path / "whole")
    train_loop(whole)
    settings = loop_settings(dataset, tmp_path / "run", config=often())
    full_disk(monkeypatch, after=9)
    with pytest.raises(StorageError) as caught:
        train_loop(settings)
    assert caught.value.exit_code == 75
    monkeypatch.undo()
    train_loop(settings)
    for name, value in weights(whole).items():
        assert torch.equal(weights(settings)[name], value), name


# Python 3.12 warns of forks beside threads; the child only writes files.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_of_the_writing_thread_leaves_the_old_or_the_new(tmp_path, point):
    checkpoints.save(str(tmp_path), state(1), 1)
    child = os.fork()
    if child == 0:
        os.environ["FAIL_AT"] = f"checkpoints.{point}"
        writer = Checkpointer(str(tmp_path), 1, 0, 1)
        writer.start(state(2), 2, before=nothing)
        writer.wait()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    checkpoints.clean(str(tmp_path))
    expected = 2 if point in POINTS[-2:] else 1
    assert values(checkpoints.latest(str(tmp_path))) == {float(expected)}


def save_at(rank, world, uri, full_on=None):
    writer = Checkpointer(uri, 2, rank, world)
    if rank == full_on:
        full_disk(pytest.MonkeyPatch(), after=0)
    writer.start(state(7), 7, before=nothing)
    writer.wait()


@pytest.mark.slow  # starts processes
def test_workers_share_the_writing_and_agree_when_one_disk_is_full(tmp_path):
    assert run_on(3, save_at, str(tmp_path)) == [None] * 3
    uri = checkpoints.latest(str(tmp_path))
    manifest = json.loads(Path(uri, "manifest.json").read_text())
    sizes = {name: entry["num_bytes"] for name, entry in manifest["files"].items()}
    assert set(sizes) == {".metadata", "__0_0.distcp", "__1_0.distcp", "__2_0.distcp"}
    assert values(uri) == {7.0}
    failed = run_on(3, save_at, str(tmp_path / "full"), 1)
    assert all(isinstance(told, Error) and "the disk is full" in told for told in failed)
    assert list((tmp_path / "full").iterdir()) == []


def train_until(rank, world, settings, steps=None):
    """Train; or stop all workers after so many steps, the checkpoint before left behind."""
    if steps is not None:
        from pipeline.training import loop

        passed = []

        def point(name):
            passed.append(name)
            if name == "loop.after_step" and len(passed) == steps:
                trainers[0].checkpointer.wait()
                os._exit(0)

        trainers, make = [], loop._Trainer

        def remembered(*arguments):
            trainers.append(make(*arguments))
            return trainers[0]

        loop.failpoint, loop._Trainer = point, remembered
    train_loop(settings, rank, world)


@pytest.mark.slow  # starts processes
def test_a_run_goes_on_with_two_workers_then_one_then_four(dataset, tmp_path):
    config = often(global_batch_size=16, micro_batch_size=4, samples=160)
    whole = loop_settings(dataset, tmp_path / "whole", config=config)
    train_loop(whole)
    moved = loop_settings(dataset, tmp_path / "moved", config=config)
    run_on(2, train_until, moved, 4)
    first = checkpoints.latest(f"{moved.uri}/checkpoints")
    run_on(1, train_until, moved, 3)
    second = checkpoints.latest(f"{moved.uri}/checkpoints")
    assert first < second
    assert run_on(4, train_until, moved) == [None] * 4
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(moved)[name], value, atol=1e-5, rtol=0)
