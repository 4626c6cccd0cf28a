"""A training leaves another at a checkpoint, without some samples, as a result of its own."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import checkpoints
from pipeline.errors import ConfigError
from pipeline.training.config import Branch
from pipeline.training.loop import train_loop
from pipeline.training.reading_record import Reading, write
from pipeline.training.starting import checkpoint_of
from tests.synthetic import BlockTask, loop_settings, make_dataset, train_config

BATCH, SAMPLES = 8, 160
OF = "0123456789ab"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def left(dataset, tmp_path_factory):
    """A training with all its checkpoints, and the samples it saw."""
    task = BlockTask()
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e-9}
    config = train_config(execution={**execution, "keep_checkpoints": 100})
    uri = tmp_path_factory.mktemp("run") / "prior" / OF
    settings = loop_settings(dataset, uri, config=config, task=task)
    train_loop(settings)
    return settings, task.seen


def first_checkpoint(left):
    """Samples seen at it; checkpoints are written beside the training, at moments of their own."""
    return checkpoints.samples_seen(checkpoints.completed(f"{left[0].uri}/checkpoints")[0])


def branched(left, name, skipped=()):
    settings, _ = left
    branch = {"of": OF, "from_samples": first_checkpoint(left), "skipped": skipped}
    config = train_config(branch=branch)
    uri = str(Path(settings.uri).with_name(name))
    task = BlockTask()
    own = replace(settings, config=config, uri=uri, task=task)
    own = replace(own, branch_uri=checkpoint_of(config.branch, uri))
    train_loop(own)
    return own, task.seen


def test_a_branch_that_leaves_nothing_out_is_the_same_training(left):
    own, _ = branched(left, "same")
    theirs = load_file(f"{left[0].uri}/weights.safetensors")
    for name, value in load_file(f"{own.uri}/weights.safetensors").items():
        assert torch.equal(value, theirs[name]), name


def test_a_branch_goes_on_from_the_checkpoint_without_the_samples_left_out(left):
    start = first_checkpoint(left)
    own, seen = branched(left, "other", [[start + 8, start + 16], [start + 24, start + 32]])
    whole = [number for _, number in left[1]]
    rest = [*whole[start : start + 8], *whole[start + 16 : start + 24], *whole[start + 32 :]]
    found = [number for _, number in seen]
    assert len(found) == SAMPLES - start
    steps = range(0, len(rest), BATCH)
    assert [set(found[i : i + BATCH]) for i in steps] == [set(rest[i : i + BATCH]) for i in steps]
    assert checkpoints.samples_seen(checkpoints.latest(f"{own.uri}/checkpoints")) == SAMPLES


def test_the_record_of_what_was_read_leaves_them_out_too(left, dataset, tmp_path):
    whole = train_config()
    own = train_config(branch={"of": OF, "from_samples": 80, "skipped": [[80, 160]]})
    orders = []
    for name, config in (("whole", whole), ("own", own)):
        uri = str(tmp_path / "prior" / name)
        write(uri, config, [(dataset.curated_uri, dataset.keep)])
        orders.append(Reading(uri).order())
    counts = dataset.keep.counts("train")
    places = [(shard, i) for shard, count in enumerate(counts) for i in range(count)]
    read, all_read = (
        [order.times_read(*place, num) for place in places]
        for order, num in ((orders[1], 160), (orders[0], 240))
    )
    skipped = [orders[0].times_read(*p, 160) - orders[0].times_read(*p, 80) for p in places]
    assert sum(read) == 160
    assert read == [a - s for a, s in zip(all_read, skipped, strict=True)]


def test_a_checkpoint_that_is_gone_is_told_with_those_there_are(left):
    with pytest.raises(ConfigError) as caught:
        checkpoint_of(Branch(of=OF, from_samples=84), f"{Path(left[0].uri).parent}/x")
    known = f"{first_checkpoint(left)},.* 160 samples"
    assert re.search(f"from_samples=84: .* are at {known};.*keep_checkpoints", str(caught.value))


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        ({"from_samples": 12}, ["from_samples=12", "global_batch_size=8"]),
        ({"from_samples": 160}, ["from_samples=160", "below samples=160"]),
        ({"from_samples": 80, "skipped": [[81, 88]]}, ["[81, 88]", "num_lanes=4"]),
        ({"from_samples": 80, "skipped": [[72, 88]]}, ["[72, 88]", "at 80 or later"]),
        ({"from_samples": 80, "skipped": [[96, 104], [88, 92]]}, ["[88, 92]", "at 104 or later"]),
        ({"from_samples": 80, "of": "../../x"}, ["branch.of"]),
    ],
)
def test_a_branch_that_cannot_be_is_refused(branch, words):
    with pytest.raises(ValueError, match="branch") as caught:
        train_config(branch={"of": OF, **branch})
    for word in words:
        assert word in str(caught.value)
