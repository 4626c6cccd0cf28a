"""The loop gives the same run through any interruption, and never applies a bad gradient."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline import checkpoints
from pipeline.errors import ConfigError, DataError
from pipeline.shards.sampler import Order
from pipeline.training import loop as loop_module
from pipeline.training import spool
from pipeline.training.batches import step_parts
from pipeline.training.loop import train_loop
from tests.synthetic import RegressionTask, loop_settings, make_dataset, train_config


class Killed(Exception):
    pass


def curve(settings):
    exact = ("loss", "size", "gradient_norm", "validation_loss", "learning_rate")
    return [{k: r[k] for k in ("samples_seen", *exact) if k in r} for r in spool.read(settings.uri)]


def weights(settings):
    return load_file(f"{settings.uri}/weights.safetensors")


def file_bytes(settings):
    return Path(settings.uri, "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def interrupt_after(monkeypatch, steps):
    """Raise in place of the SIGKILL that a failpoint would send."""
    passed = []

    def point(name):
        passed.append(name)
        if passed.count("loop.after_step") == steps and name == "loop.after_step":
            raise Killed

    monkeypatch.setattr(loop_module, "failpoint", point)


@pytest.mark.parametrize("killed_after", [1, 7, 19])
def test_resumed_run_equals_undisturbed_run_bit_for_bit(
    dataset, tmp_path, monkeypatch, killed_after
):
    whole = loop_settings(dataset, tmp_path / "whole")
    train_loop(whole)
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e-9}
    broken = loop_settings(dataset, tmp_path / "broken", config=train_config(execution=execution))
    interrupt_after(monkeypatch, killed_after)
    with pytest.raises(Killed):
        train_loop(broken)
    monkeypatch.undo()
    train_loop(broken)
    assert curve(broken) == curve(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(broken)[name], value), name
    assert file_bytes(broken) == file_bytes(whole)


def test_training_lowers_the_loss_and_writes_curve_grids_and_summary(dataset, tmp_path):
    settings = loop_settings(dataset, tmp_path / "run", config=train_config(samples=1600))
    train_loop(settings)
    points = [record for record in curve(settings) if "loss" in record]
    assert points[-1]["loss"] < 0.8 * points[0]["loss"]
    grids = sorted((tmp_path / "run" / "grids").iterdir())
    assert [int(grid.stem) for grid in grids] == [400, 800, 1200, 1600]
    with Image.open(grids[0]) as grid:
        assert grid.size[0] % 8 == 0
    summary = json.loads((tmp_path / "run" / "loop.json").read_text())
    assert summary["samples"] == 1600
    assert summary["num_parameters"] == sum(v.numel() for v in weights(settings).values())
    assert summary["final"]["validation_loss"] > 0
    assert spool.work_intervals(settings.uri)[0][0] <= spool.work_intervals(settings.uri)[0][1]


def test_bad_gradients_are_never_applied_and_the_stop_names_the_keys(dataset, tmp_path):
    clean = loop_settings(dataset, tmp_path / "run")
    source = clean.data.source(clean.task, "train", cache_bytes=0)
    order = Order(source.counts, clean.config.seed, clean.config.num_lanes)
    shard, offset = order.locate(np.array([3]))[0].tolist()  # sample 3 belongs to the first step
    key = source.keys(shard)[offset]
    settings = replace(clean, task=RegressionTask(poison_key=key), max_nonfinite_steps=1)
    torch.manual_seed(loop_module._torch_seed(settings.config.seed, "weights"))
    fresh = settings.task.build().state_dict()
    with pytest.raises(DataError, match=key):
        train_loop(settings)
    assert key in (tmp_path / "run" / "nonfinite.json").read_text()
    trainer = loop_module._Trainer(replace(settings, uri=str(tmp_path / "one")), 0, 1)
    trainer._take_step(
        next(iter(step_parts(settings.task, trainer.loader, settings.config, 0, 0, 1)))
    )
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, fresh[name]), name
    assert all(not state["step"] for state in trainer.optimizer.state.values())


def test_a_bad_step_now_and_then_does_not_stop_the_run(dataset, tmp_path):
    clean = loop_settings(dataset, tmp_path / "run")
    source = clean.data.source(clean.task, "train", cache_bytes=0)
    settings = replace(clean, task=RegressionTask(poison_key=source.keys(0)[0]))
    train_loop(settings)
    assert sum(r.get("nonfinite_steps", 0) for r in spool.read(settings.uri)) > 0
    assert all(torch.isfinite(value).all() for value in weights(settings).values())


def test_last_checkpoints_are_kept_and_hold_the_whole_state(dataset, tmp_path):
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e-9}
    settings = loop_settings(dataset, tmp_path / "run", config=train_config(execution=execution))
    train_loop(settings)
    kept = checkpoints.completed(f"{settings.uri}/checkpoints")
    assert len(kept) == 2
    assert kept[-1].endswith(f"step-{160:012d}")


def test_more_workers_than_micro_batches_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="num_workers=3"):
        train_loop(loop_settings(dataset, tmp_path / "run"), rank=0, world=3)


def test_micro_batches_and_their_order_do_not_change_the_gradient(dataset, tmp_path):
    """Two micro-batches per step or four give the same step up to rounding."""
    finals = []
    for size in (4, 2):
        config = train_config(micro_batch_size=size)
        settings = loop_settings(
            dataset, tmp_path / f"micro{size}", config=config, task=_NoDropout()
        )
        train_loop(settings)
        finals.append(weights(settings))
    for name, value in finals[0].items():
        assert torch.allclose(value, finals[1][name], atol=1e-5), name


class _NoDropout(RegressionTask):
    def build(self):
        model = super().build()
        model.drop.p = 0.0
        return model
