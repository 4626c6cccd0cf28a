"""Training under Ray Train: any number of workers, killed workers, errors that people can read."""

import io
import os
import signal
import socket
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import RayActorError
from safetensors.torch import load_file

from pipeline import checkpoints, storage
from pipeline.errors import ConfigError, DataError, PreemptedError
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.shards.loader import Loader, Share
from pipeline.shards.sampler import Order
from pipeline.storage import read_json
from pipeline.training import spool
from pipeline.training.decoder_actor import ActorDecoder
from pipeline.training.decoder_child import Told, open_loader
from pipeline.training.feeding import fed_parts
from pipeline.training.launch import fit
from pipeline.training.loop import train_loop
from pipeline.training.side import found_at_the_end
from tests.synthetic import (
    DyingTask,
    PictureTask,
    RegressionTask,
    SlowTask,
    loop_settings,
    make_dataset,
    train_config,
)

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def dataset():
    prepare_environment()
    with tempfile.TemporaryDirectory(prefix="ut") as folder:
        place = make_dataset(Path(folder))
        with ray_session(RayConfig(num_cpus=2)):
            yield place


def config(num_workers: int, **more):
    execution = {"num_workers": num_workers, "threads": 1, "checkpoint_every_s": 1e-9}
    return train_config(execution=execution | more)


def run(settings):
    """Train under Ray; returns what the tracker and the picture store were given."""
    records, grids = [], []
    fit(
        settings,
        "test",
        Progress(io.StringIO()),
        on_metrics=records.extend,
        on_grid=lambda uri, step, kind: grids.append((uri, step)),
    )
    return records, grids


def weights(settings):
    return load_file(f"{settings.uri}/weights.safetensors")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_train_what_one_process_trains_and_the_driver_sees_it(
    dataset, tmp_path, strategy
):
    alone = loop_settings(dataset, tmp_path / "alone", config=config(1), task=WithoutDropout())
    train_loop(alone)
    settings = config(2, strategy=strategy)
    pair = loop_settings(dataset, tmp_path / "pair", config=settings, task=WithoutDropout())
    records, grids = run(pair)
    for name, value in weights(alone).items():
        assert torch.allclose(weights(pair)[name], value, atol=1e-5), name
    losses = {r["samples_seen"]: r["loss"] for r in records if "loss" in r}
    expected = {r["samples_seen"]: r["loss"] for r in spool.read(alone.uri) if "loss" in r}
    assert losses == pytest.approx(expected, abs=1e-5)
    assert [step for _, step in grids] == [40, 80, 120, 160]
    assert all(storage.exists(uri) for uri, _ in grids)
    assert not (tmp_path / "pair" / "ray").exists()


def test_a_killed_worker_is_replaced_and_changes_no_bit(dataset, tmp_path):
    whole = loop_settings(dataset, tmp_path / "whole", config=config(1))
    train_loop(whole)
    task = DyingTask(marker=str(tmp_path / "died"), at_call=17)
    broken = loop_settings(dataset, tmp_path / "broken", config=config(1), task=task)
    run(broken)
    assert (tmp_path / "died").exists()
    for name, value in weights(whole).items():
        assert torch.equal(weights(broken)[name], value), name
    exact = ("samples_seen", "loss", "validation_loss")
    curves = [
        [{name: r[name] for name in exact if name in r} for r in spool.read(run.uri)]
        for run in (whole, broken)
    ]
    assert curves[0] == curves[1]
    assert len(spool.work_intervals(broken.uri)) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_ours_reaches_the_driver_as_itself(dataset, tmp_path, num_workers):
    settings = loop_settings(dataset, tmp_path / "bad", config=config(num_workers))
    source = dataset.source(settings.task, "train", cache_bytes=0)
    order = Order(source.counts, settings.config.seed, settings.config.num_lanes)
    key = Loader(source, order, 8, 4).keys(0)[5]
    task = RegressionTask(poison_key=key)
    with pytest.raises(DataError, match=key):
        run(replace(settings, task=task, max_nonfinite_steps=1))


def terminate_when(path: Path):
    """SIGTERM to this process, as to a job, half a second after a file is there."""

    def wait():
        while not path.exists():
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sigterm_leaves_a_checkpoint_and_asks_to_be_called_again(dataset, tmp_path, num_workers):
    rarely = config(num_workers, checkpoint_every_s=1e9)
    whole = loop_settings(dataset, tmp_path / "whole", config=rarely)
    run(whole)
    slow = SlowTask(seconds=0.3)  # the whole takes 6 s or more, so the notice is in time
    asked = loop_settings(dataset, tmp_path / "asked", config=rarely, task=slow)
    terminating = terminate_when(tmp_path / "asked" / "workers.json")
    with pytest.raises(PreemptedError, match="the same command goes on") as caught:
        run(asked)
    terminating.join()
    assert caught.value.exit_code == 75
    left = checkpoints.completed(f"{asked.uri}/checkpoints")
    assert len(left) == 1
    assert not Path(asked.uri, "weights.safetensors").exists()
    assert not Path(asked.uri, "notice.json").exists()
    run(replace(asked, task=RegressionTask()))
    for name, value in weights(whole).items():
        assert torch.equal(weights(asked)[name], value), name


def test_a_slow_worker_is_named(dataset, tmp_path):
    said = io.StringIO()
    task = SlowTask(seconds=0.02, slow_rank=1)
    settings = loop_settings(dataset, tmp_path / "slow", config=config(2), task=task)
    fit(settings, "test", Progress(said), lambda records: None, lambda *_: None)
    told = [line for line in said.getvalue().splitlines() if "all wait for it" in line]
    assert len(told) == 1
    assert f"worker 1 on {socket.gethostname()}" in told[0]
    points = [p for p in spool.read(settings.uri) if "slowest_worker" in p]
    assert points[-1]["own_step_s_slowest"] > 2 * points[-1]["own_step_s_median"] > 0.02


def steps_of(settings, first_step, num_steps):
    with closing(fed_parts(settings, open_loader(settings), first_step, 0, 1)) as parts:
        return [next(parts) for _ in range(num_steps)]


def wait_until_gone(actor, limit_s=60):
    """Of what `ray.kill` only asks for: calls of the next moments may still be answered."""
    ends = time.monotonic() + limit_s
    with pytest.raises(RayActorError):
        while time.monotonic() < ends:
            ray.get(actor.__ray_ready__.remote())


def test_decoders_on_the_cluster_make_the_same_batches_and_are_missed_when_gone(dataset, tmp_path):
    settings = loop_settings(dataset, tmp_path, config=config(0), task=PictureTask())
    remote = config(0, decoders=2, decode_on="cluster")
    decoded = replace(settings, config=remote)
    found, expected = (steps_of(each, 37, 6) for each in (decoded, settings))
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.batch.keys() == other.batch.keys()
            for name, value in one.batch.items():
                assert torch.equal(value, other.batch[name]), name
    with ActorDecoder(Told(decoded, Share(0, 1, 0, 2), 0)) as decoder:
        decoder.ask(0)
        assert len(decoder.rows(0)["position"]) == 4
        ray.kill(decoder._actor)
        wait_until_gone(decoder._actor)
        decoder.ask(1)
        with pytest.raises(RuntimeError, match=r"decoder 0 of 2 of worker 0 is gone"):
            decoder.rows(1)


@dataclass
class LookedAtTask(RegressionTask):
    """Dies, or fails, the first time that somebody looks at it."""

    marker: str = ""
    dies: bool = True

    def loss(self, model, batch):
        if not model.training and not Path(self.marker).exists():
            Path(self.marker).touch()
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError
        return super().loss(model, batch)


def found(points):
    """What looks found, by step; how long a training stood still for them is left out."""
    looks = {
        p["samples_seen"]: {n: v for n, v in p.items() if n.startswith("validation_")}
        for p in points
    }
    for look in looks.values():
        look.pop("validation_stop_s", None)
    return {step: look for step, look in looks.items() if look}


def grids_of(settings):
    return {path.name: path.read_bytes() for path in Path(settings.uri, "grids").iterdir()}


def test_looks_from_the_side_find_the_same_though_driver_and_task_die(dataset, tmp_path):
    own = loop_settings(dataset, tmp_path / "own", config=config(0))
    train_loop(own)
    task = LookedAtTask(marker=str(tmp_path / "died"))
    side = config(0, validate_on="side")
    settings = loop_settings(dataset, tmp_path / "side", config=side, task=task)
    train_loop(settings)  # nobody follows it: the weights of all moments wait
    waiting = sorted(path.name for path in Path(settings.uri, "looks").iterdir())
    assert waiting == [f"{step:012d}.safetensors" for step in (40, 80, 120)]
    records, grids = run(settings)
    assert (tmp_path / "died").exists()
    assert found(records) == found(spool.read(settings.uri)) == found(spool.read(own.uri))
    assert list(found(records)) == [40, 80, 120, 160]
    assert found_at_the_end(settings.uri, 160) == read_json(f"{own.uri}/loop.json")["final"]
    assert grids_of(settings) == grids_of(own)
    assert [step for _, step in grids] == [40, 80, 120, 160]
    left = sorted(path.name for path in Path(settings.uri, "looks").iterdir())
    assert left == [f"{step:012d}.json" for step in (40, 80, 120, 160)]
    assert not found(run(settings)[0]).keys() - {40, 80, 120, 160}


def test_a_look_that_fails_is_missing_and_stops_nothing(dataset, tmp_path):
    task = LookedAtTask(marker=str(tmp_path / "failed"), dies=False)
    side = config(0, validate_on="side")
    settings = loop_settings(dataset, tmp_path / "side", config=side, task=task)
    said = io.StringIO()
    records = []
    fit(settings, "test", Progress(said), records.extend, lambda *_: None)
    assert found(records)[40] == {"validation_missing": 1.0}
    assert all(found(records)[step]["validation_loss"] > 0 for step in (80, 120, 160))
    assert "the look at 40 samples is missing, training goes on: ZeroDivisionError" in (
        said.getvalue()
    )
    assert weights(settings)
    nodes = {name for record in records for name in record if name.startswith("system/")}
    assert f"system/{socket.gethostname()}/cpu_share" in nodes


def test_a_side_task_that_nobody_has_room_for_is_refused(dataset, tmp_path):
    settings = loop_settings(dataset, tmp_path, config=config(2, validate_on="side"))
    with pytest.raises(ConfigError, match="wants 3 CPUs, the Ray cluster has 2"):
        run(settings)


class WithoutDropout(RegressionTask):
    def build(self):
        model = super().build()
        model.drop.p = 0.0
        return model
