"""Decoders change no bit, and neither they nor their worker outlive each other's end."""

import os
import pickle
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from pydantic import ValidationError

from pipeline.errors import DataError
from pipeline.training.decoder_child import open_loader
from pipeline.training.feeding import fed_parts
from pipeline.training.inputs import TaskInputs
from pipeline.training.loop import train_loop
from pipeline.training.tasks import build_task
from tests.synthetic import DIM, PictureTask, loop_settings, make_dataset, train_config
from tests.unit.training import test_tasks

pytestmark = pytest.mark.slow  # starts processes
BATCH = {"global_batch_size": 16, "micro_batch_size": 4, "num_lanes": 4, "samples": 320}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def settings_of(dataset, decoders=0, uri="unused", **task):
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e9, "decoders": decoders}
    config = train_config(**BATCH, execution=execution)
    return loop_settings(dataset, Path(uri), config=config, task=PictureTask(**task))


def steps(settings, num_steps=5, first_step=0, rank=0, world=1):
    loader = open_loader(settings)
    with closing(fed_parts(settings, loader, first_step, rank, world)) as parts:
        return [next(parts) for _ in range(num_steps)]


def decoders_of(worker):
    return [child for child in worker.children() if is_decoder(child)]


def is_decoder(process):
    try:
        return any("decoder_child" in word for word in process.cmdline())
    except psutil.Error:  # another test's child, gone or about to be
        return False


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [part.number for part in ours] == [part.number for part in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.batch.keys() == other.batch.keys()
            for name, value in one.batch.items():
                assert value.dtype == other.batch[name].dtype
                assert torch.equal(value, other.batch[name]), name


@pytest.mark.parametrize(("decoders", "rank", "world"), [(1, 2, 3), (3, 0, 1), (2, 0, 2)])
def test_decoders_make_the_same_batches_from_any_step_on(dataset, decoders, rank, world):
    first = 37
    expected = steps(settings_of(dataset), first_step=first, rank=rank, world=world)
    found = steps(settings_of(dataset, decoders), first_step=first, rank=rank, world=world)
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["clip", "prior", "decoder", "upsampler"])
def test_decoders_serve_the_tasks_that_train_models(dataset, name):
    """Those of a diffusion process carry tensors of their own."""
    task = build_task(
        test_tasks.configs()[name], TaskInputs(z_mean=(0.0,) * DIM, z_std=(1.0,) * DIM)
    )
    expected, found = (
        steps(replace(settings_of(dataset, decoders), task=task)) for decoders in (0, 1)
    )
    assert_same(found, expected)


def test_a_whole_batch_comes_in_order_of_position(dataset):
    expected = steps(settings_of(dataset, whole_batch=True))
    found = steps(settings_of(dataset, 2, whole_batch=True))
    assert_same(found, expected)
    for part in [parts[0] for parts in found]:
        positions = part.batch["position"].tolist()
        assert positions == sorted(positions)


def test_a_killed_decoder_is_named_and_the_others_are_ended(dataset):
    settings = settings_of(dataset, 2)
    parts = fed_parts(settings, open_loader(settings), 0, 0, 1)
    next(parts)
    children = decoders_of(psutil.Process())
    children[0].kill()
    with pytest.raises(RuntimeError, match=r"decoder \d of 2 of worker 0 .* by signal 9; .* lower"):
        for _ in range(5):
            next(parts)
    assert not any(child.is_running() for child in children)


def test_what_a_decoder_finds_wrong_is_raised_as_itself(dataset, tmp_path):
    fresh = make_dataset(tmp_path)
    path = Path(fresh.curated_uri, "views/16/00001.tar")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00001\.tar: 40959 bytes, its manifest"):
        steps(settings_of(fresh, 2))


def test_an_error_of_no_kind_of_ours_brings_where_it_arose(dataset):
    with pytest.raises(RuntimeError, match=r"in prepare(.|\n)*ZeroDivisionError"):
        steps(settings_of(dataset, 1, fails=True))


def test_a_decoder_ends_with_its_worker_however_that_ends(dataset, tmp_path):
    code = (
        "import sys, time; from tests.unit.training.test_feeding import *;"
        ""
        "settings = settings_of(pickle.loads(bytes.fromhex(sys.argv[1])), 2);"
        "parts = fed_parts(settings, open_loader(settings), 0, 0, 1); next(parts);"
        "print(*(c.pid for c in decoders_of(psutil.Process())), flush=True); time.sleep(60)"
    )
    told = pickle.dumps(dataset).hex()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, told], stdout=subprocess.PIPE, env=environment, text=True
    ) as worker:
        children = [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]
        assert len(children) == 2
        worker.kill()
    until = time.monotonic() + 10
    while any(child.is_running() for child in children):
        assert time.monotonic() < until, "a decoder is left"
        time.sleep(0.05)


def test_more_decoders_than_a_worker_has_lanes_are_refused(dataset):
    with pytest.raises(ValidationError, match=r"decoders=5 is more than the 4 lanes of a worker"):
        settings_of(dataset, 5)


def test_training_with_decoders_publishes_the_same_weights(dataset, tmp_path):
    found = []
    for name, decoders in (("alone", 0), ("decoded", 2)):
        settings = settings_of(dataset, decoders, tmp_path / name)
        train_loop(settings)
        found.append(Path(settings.uri, "weights.safetensors").read_bytes())
    assert found[0] == found[1]
