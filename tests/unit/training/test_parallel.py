"""Any number of workers and any layout: the same samples, and the same training up to rounding.

The tolerance is that of float32 sums in another order: 1e-5 on losses of about 1 over 20 steps.
"""

import dataclasses

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline import checkpoints, weights_file
from pipeline.errors import ConfigError
from pipeline.models.presets import build_clip
from pipeline.training import spool
from pipeline.training.execution import TrainExecution
from pipeline.training.inputs import TaskInputs
from pipeline.training.loop import train_loop
from pipeline.training.parallel import lay_out
from pipeline.training.tasks import build_task
from tests.gloo import Error, run_on
from tests.synthetic import BlockTask, loop_settings, make_dataset, train_config
from tests.unit.training import test_priors
from tests.unit.training.test_tasks import CLIP

code_inputs = test_priors.inputs
TOLERANCE = 1e-5
SAMPLES = 320


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def settings_of(dataset, uri, world=1, every_s=1e9, **changes):
    execution = {"num_workers": world, "threads": 1, "checkpoint_every_s": every_s}
    execution |= changes.pop("execution", {})
    values = {"global_batch_size": 16, "micro_batch_size": 4, "samples": SAMPLES}
    config = train_config(**values, grad_clip_norm=0.5, **changes, execution=execution)
    return loop_settings(dataset, uri, config=config, task=BlockTask())


def train(rank, world, settings):
    """Train; returns the samples this worker was trained on, in order."""
    train_loop(settings, rank, world)
    return settings.task.seen


def weights(settings):
    """Published weights, but for those whose gradient is only rounding: Adam makes steps of it.

    A bias of keys moves all of a query's scores alike, which the softmax takes out.
    """
    found = load_file(f"{settings.uri}/weights.safetensors")
    return {name: value for name, value in found.items() if not name.endswith("qkv.bias")}


def losses(settings):
    points = spool.read(settings.uri)
    return {
        (point["samples_seen"], name): point[name]
        for point in points
        for name in ("loss", "validation_loss", "gradient_norm")
        if name in point
    }


def by_step(seen, batch=16):
    """Samples of each step, in the order of their positions."""
    steps = [sorted(row for row in seen if row[0] // batch == n) for n in range(SAMPLES // batch)]
    assert sum(map(len, steps)) == len(seen)
    return steps


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    settings = settings_of(dataset, tmp_path_factory.mktemp("alone"))
    return settings, train(0, 1, settings)


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize(
    ("world", "execution"),
    [
        (2, {}),
        (3, {}),  # does not divide the four micro-batches of a step
        (4, {}),
        (2, {"strategy": "fsdp"}),
        (3, {"strategy": "fsdp"}),
        (4, {"strategy": "hsdp", "shard_workers": 2}),
        (2, {"strategy": "fsdp", "activation_checkpointing": True}),
    ],
)
def test_workers_and_layouts_train_the_same(dataset, alone, tmp_path, world, execution):
    expected, seen_alone = alone
    settings = settings_of(dataset, tmp_path, world, execution=execution)
    found = run_on(world, train, settings)
    assert not any(isinstance(seen, Error) for seen in found), found
    # Under fsdp a worker with fewer parts repeats its last one to keep the others company.
    rows = {tuple(row) for seen in found for row in seen}
    assert by_step(rows) == by_step({tuple(row) for row in seen_alone})
    assert losses(settings) == pytest.approx(losses(expected), abs=TOLERANCE)
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(settings)[name], value, atol=TOLERANCE, rtol=0)


def train_to(rank, world, settings, samples):
    """Train so far and end, a checkpoint left behind."""
    config = settings.config.model_copy(update={"samples": samples})
    train_loop(dataclasses.replace(settings, config=config), rank, world)


@pytest.mark.slow  # starts processes
def test_a_checkpoint_of_one_layout_is_read_by_any_other(dataset, tmp_path):
    whole = settings_of(dataset, tmp_path / "whole", decay="none")
    train_loop(whole)
    layouts = [
        (2, {"strategy": "fsdp"}),
        (1, {}),
        (4, {"strategy": "hsdp", "shard_workers": 2}),
        (3, {}),
        (3, {"strategy": "fsdp"}),
    ]
    for number, (world, execution) in enumerate(layouts):
        moved = settings_of(dataset, tmp_path / "moved", world, decay="none", execution=execution)
        found = run_on(world, train_to, moved, SAMPLES * (number + 1) // len(layouts))
        assert not any(isinstance(told, Error) for told in found), found
    assert checkpoints.latest(f"{moved.uri}/checkpoints").endswith(f"{SAMPLES:012d}")
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(moved)[name], value, atol=TOLERANCE, rtol=0)


def step_state(rank, world, settings):
    """What a checkpoint would hold, and how much of it is this worker's own."""
    from pipeline.training.device import local
    from pipeline.training.loop import _Trainer

    trainer = _Trainer(settings, rank, world)
    state = trainer._state()
    groups = ("model", "optimizer", "ema")
    return {
        group: sum(local(tensor).numel() for tensor in state[group].values()) for group in groups
    }


@pytest.mark.slow  # starts processes
def test_every_worker_holds_a_part_of_weights_moments_and_average(dataset, tmp_path):
    whole = step_state(0, 1, settings_of(dataset, tmp_path / "alone"))
    settings = settings_of(dataset, tmp_path, 4, execution={"strategy": "fsdp"})
    held = run_on(4, step_state, settings)
    for group, numbers in whole.items():
        assert sum(each[group] for each in held) < 1.2 * numbers
        assert max(each[group] for each in held) < 0.4 * numbers


def first_steps(rank, world, uri, values):
    """Loss and gradient norm of one step of every task, on this worker's share of eight rows."""
    from tests.unit.training.test_tasks import batch_of, configs

    found = {}
    inputs = TaskInputs(clip_weights_uri=uri, z_mean=(0.0,) * 8, z_std=(1.0,) * 8)
    for name, task_config in configs().items():
        task = build_task(task_config, inputs)
        torch.manual_seed(0)
        layout = lay_out(task.build().train(), train_config(**values), "cpu", rank, world)
        with torch.no_grad():  # some begin at zero, which would hide what comes before
            for mine in layout.trained.values():
                mine.add_(0.01)
        losses, _ = layout.compute(task.loss, batch_of(task, range(rank, 8, world)))
        (losses.sum() / 8).backward()
        totals, norm = layout.exchange(layout.gradients(), losses.detach().sum().reshape(1))
        found[name] = totals[0].item() / 8, norm.item()
    return found


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_every_task_can_be_cut(tmp_path, precision, tolerance):
    uri = str(tmp_path / "clip.safetensors")
    state = build_clip(CLIP).state_dict()
    weights_file.export_weights(uri, state, {"model": CLIP.model_dump(mode="json")}, "clip")
    execution = {"num_workers": 2, "threads": 1, "checkpoint_every_s": 1, "strategy": "fsdp"}
    values = {"precision": precision, "execution": execution}
    expected = first_steps(0, 1, uri, values)
    for found in run_on(2, first_steps, uri, values):
        assert not isinstance(found, Error), found
        for name, numbers in expected.items():
            assert found[name] == pytest.approx(numbers, rel=tolerance), name


def drawn_by_codes(rank, world, inputs, values):
    """What an autoregressive prior draws, code by code; its blocks are asked past ``forward``."""
    from tests.unit.training.test_priors import batch_of, task_config

    task = build_task(task_config(), inputs)
    torch.manual_seed(0)
    layout = lay_out(task.build().eval(), train_config(**values), "cpu", rank, world)
    batch = batch_of(task, range(4))
    with torch.no_grad():
        return layout.compute(lambda model, some: task.made(model, some, range(4)), batch)["drawn"]


@pytest.mark.slow  # starts processes
def test_a_prior_that_is_cut_draws_code_by_code(code_inputs):
    execution = {"num_workers": 2, "threads": 1, "checkpoint_every_s": 1, "strategy": "fsdp"}
    values = {"execution": execution}
    expected = drawn_by_codes(0, 1, code_inputs, values)
    for found in run_on(2, drawn_by_codes, code_inputs, values):
        assert not isinstance(found, Error), found
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def train_compiled(rank, world, settings):
    """Train; returns how many frames were compiled."""
    train_loop(settings, rank, world)
    return torch._dynamo.utils.counters["frames"]["ok"]


@pytest.mark.slow  # compiles; in a process of its own, since shape checks cannot be compiled
def test_compiled_blocks_train_the_same(dataset, alone, tmp_path):
    expected, _ = alone
    execution = {"compile_blocks": True, "activation_checkpointing": True}
    settings = settings_of(dataset, tmp_path, execution=execution)
    compiled = run_on(1, train_compiled, settings)[0]
    assert not isinstance(compiled, Error), compiled
    assert compiled > 0
    assert losses(settings) == pytest.approx(losses(expected), abs=TOLERANCE)


def test_bfloat16_trains_almost_as_float32_on_float32_weights(dataset, alone, tmp_path):
    expected, _ = alone
    settings = settings_of(dataset, tmp_path, precision="bfloat16")
    train_loop(settings)
    assert all(value.dtype == torch.float32 for value in weights(settings).values())
    ours, theirs = losses(settings), losses(expected)
    assert ours != theirs
    assert ours == pytest.approx(theirs, abs=0.03)


@pytest.mark.slow  # starts processes
def test_bfloat16_agrees_over_layouts(dataset, tmp_path):
    one = settings_of(dataset, tmp_path / "one", precision="bfloat16")
    train_loop(one)
    execution = {"strategy": "fsdp"}
    two = settings_of(dataset, tmp_path / "two", 2, precision="bfloat16", execution=execution)
    found = run_on(2, train, two)
    assert not any(isinstance(told, Error) for told in found), found
    assert losses(two) == pytest.approx(losses(one), abs=0.02)


def test_a_late_average_publishes_its_own_stretch_through_an_interruption(dataset, tmp_path):
    plain = settings_of(dataset, tmp_path / "plain", decay="none")
    train_loop(plain)
    broken = settings_of(dataset, tmp_path / "broken", decay="none", ema_start_samples=200)
    constant = settings_of(dataset, tmp_path / "constant", decay="none", ema_start_samples=200)
    train_loop(constant)
    train_to(0, 1, broken, SAMPLES // 2)  # before the start
    train_loop(broken)
    assert any((weights(constant)[n] != v).any() for n, v in weights(plain).items())
    for name, value in weights(constant).items():
        assert torch.equal(weights(broken)[name], value), name


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"strategy": "hsdp"}, "hsdp needs the number"),
        ({"strategy": "fsdp", "shard_workers": 2}, "the others have none"),
        ({"strategy": "hsdp", "shard_workers": 3}, "not a multiple of shard_workers=3"),
    ],
)
def test_layouts_that_do_not_divide_are_refused(values, told):
    with pytest.raises(ValidationError, match=told):
        TrainExecution(num_workers=4, threads=1, checkpoint_every_s=1, **values)


def test_a_perturbed_replica_is_not_cut():
    execution = {"num_workers": 2, "threads": 1, "checkpoint_every_s": 1, "strategy": "fsdp"}
    with pytest.raises(ValidationError, match="use ddp"):
        train_config(sam_rho=0.1, execution=execution)


def test_more_workers_than_micro_batches_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="num_workers=5"):
        train_loop(settings_of(dataset, tmp_path), rank=0, world=5)
