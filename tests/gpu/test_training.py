"""The loop on a GPU: close to the CPU, and no step waits for the device."""

from dataclasses import replace

import pytest
import torch

from pipeline.training import spool
from pipeline.training.batches import step_parts
from pipeline.training.device import fixed_arithmetic
from pipeline.training.loop import _Trainer, train_loop
from tests.gloo import run_on
from tests.synthetic import BlockTask, RegressionTask, loop_settings, make_dataset, train_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def settings_of(dataset, uri, device, **changes):
    config = train_config(global_batch_size=16, micro_batch_size=4, samples=320, **changes)
    return replace(loop_settings(dataset, uri, config=config, task=BlockTask()), device=device)


def losses(settings):
    return [point["loss"] for point in spool.read(settings.uri) if "loss" in point]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_a_gpu_trains_almost_as_the_cpu(dataset, tmp_path, precision, tolerance):
    runs = {}
    for device in ("cpu", "cuda:0"):
        settings = settings_of(dataset, tmp_path / device, device, precision=precision)
        train_loop(settings)
        runs[device] = losses(settings)
    assert runs["cuda:0"] == pytest.approx(runs["cpu"], abs=tolerance)


def test_no_step_waits_for_the_device(dataset, tmp_path):
    settings = replace(settings_of(dataset, tmp_path, "cuda:0"), task=RegressionTask())
    with fixed_arithmetic(1, "cuda:0"):
        trainer = _Trainer(settings, 0, 1)
        parts = step_parts(settings.task, trainer.loader, settings.config, 0, 0, 1, pin=True)
        trainer._take_step(next(parts))  # the first one allocates
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                trainer._take_step(next(parts))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 4, "torch raises where one of them waits"


def train(rank, world, settings):
    torch.cuda.set_device(rank)
    train_loop(replace(settings, device=f"cuda:{rank}"), rank, world)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_train_as_one(dataset, tmp_path, strategy):
    execution = {"num_workers": 2, "threads": 1, "checkpoint_every_s": 1e9, "strategy": strategy}
    one = settings_of(dataset, tmp_path / "one", "cuda:0")
    train_loop(one)
    two = settings_of(dataset, tmp_path / "two", "cuda:0", execution=execution)
    assert run_on(2, train, two, backend="cpu:gloo,cuda:nccl") == [None, None]
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
