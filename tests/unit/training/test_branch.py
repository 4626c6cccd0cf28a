"""A training leaves another at a checkpoint, without some samples, as a result of its own."""

import json
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
    record(settings, config, settings.uri)
    return settings, task.seen


def record(settings, config, uri):
    write(uri, config, [(settings.data.curated_uri, settings.data.keep)])


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
    record(settings, config, uri)
    own = replace(own, branch_uri=checkpoint_of(config.branch, uri, BATCH))
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
    uri = str(Path(left[0].uri).with_name("gone"))
    record(left[0], train_config(), uri)
    with pytest.raises(ConfigError) as caught:
        checkpoint_of(Branch(of=OF, from_samples=84), uri, BATCH)
    first = first_checkpoint(left)
    known = rf"{first} \(step {first // BATCH}\),.* 160 \(step 20\) samples"
    assert re.search(f"from_samples=84: .* are at {known};.*keep_checkpoints", str(caught.value))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 6}, "seed"),
        ({"global_batch_size": 16, "num_lanes": 4}, "global_batch_size"),
        ({"num_lanes": 8}, "num_lanes"),
    ],
)
def test_a_training_that_read_other_samples_is_not_left(left, changes, named):
    uri = str(Path(left[0].uri).with_name("elsewhere"))
    record(left[0], train_config(**changes), uri)
    with pytest.raises(ConfigError, match=rf"read other samples \({named} differ"):
        checkpoint_of(Branch(of=OF, from_samples=first_checkpoint(left)), uri, BATCH)


def test_a_training_is_not_left_after_a_removal_nor_a_branch_in_a_branch(left):
    uri, start = str(Path(left[0].uri).with_name("removed")), first_checkpoint(left)
    record(left[0], train_config(), uri)
    told = json.loads(Path(uri, "reading.json").read_text())
    told["sources"][0]["entry"]["sha256"] = "0" * 64
    Path(uri, "reading.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"\(sources differ"):
        checkpoint_of(Branch(of=OF, from_samples=start), uri, BATCH)
    own, _ = branched(left, "aaaaaaaaaaaa", [[start + 8, start + 16]])
    second = str(Path(own.uri).with_name("second"))
    record(left[0], train_config(), second)
    with pytest.raises(ConfigError, match=r"\(skipped differ"):
        checkpoint_of(Branch(of="aaaaaaaaaaaa", from_samples=160), second, BATCH)


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
