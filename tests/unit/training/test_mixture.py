"""Training on several lists and data sets, with weights, and the record of what was read."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.chain.lineage import lineage
from pipeline.errors import ConfigError, DataError
from pipeline.results import INDEX
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.keep_list import KeepList, write_keep_list
from pipeline.shards.loader import Loader, Share
from pipeline.shards.mixture import MixedSource
from pipeline.shards.removals import Removals, entry
from pipeline.training import launch, reading
from pipeline.training import loop as loop_module
from pipeline.training.batches import DataPlace, MixedPlace, step_parts, validation_parts
from pipeline.training.decoder_child import open_loader
from pipeline.training.feeding import fed_parts
from pipeline.training.launch import settings_for
from pipeline.training.loop import train_loop
from tests.kept_run import make_run, without_ray
from tests.synthetic import RegressionTask, loop_settings, make_dataset, publish, train_config


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two data sets of their own keys, embedded by the same CLIP."""
    folder = tmp_path_factory.mktemp("data")
    return make_dataset(folder / "one"), make_dataset(folder / "two", first=1000, num_samples=40)


def mixed(places, quotas=(1, 1)):
    return MixedPlace(tuple(places), quotas)


def weights(settings):
    return load_file(f"{settings.uri}/weights.safetensors")


def read_keys(data, steps, world=1, num_lanes=4, task=None):
    source = data.source(task or RegressionTask(), "train", cache_bytes=0)
    reader = Loader(source, source.order(5, num_lanes), 8, 4)
    found = {}
    for step in steps:
        for rank in range(world):
            samples = next(reader.read(Share(rank, world), step))
            found |= {sample.position: sample.key for sample in samples}
    return [found[position] for position in sorted(found)]


def test_a_mixture_reads_both_data_sets_in_their_shares_for_any_number_of_workers(places):
    keys = read_keys(mixed(places), range(20))
    of_second = {key for shard in range(4) for key in places[1].keep.keys(shard, "train")}
    assert sum(key in of_second for key in keys) == len(keys) // 2
    for start in range(len(keys) - 9):
        assert abs(sum(key in of_second for key in keys[start : start + 9]) - 4.5) < 1
    assert read_keys(mixed(places), range(20), world=2) == keys
    assert read_keys(mixed(places), [7]) == keys[56:64]


def test_a_source_alone_is_read_as_ever(places):
    alone, of_one = read_keys(places[0], range(5)), read_keys(mixed(places[:1], (1,)), range(5))
    assert alone == of_one


class Killed(Exception):
    pass


def test_a_mixture_trains_and_resumes_bit_for_bit(places, tmp_path, monkeypatch):
    whole = loop_settings(mixed(places), tmp_path / "whole")
    train_loop(whole)
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e-9}
    config = train_config(execution=execution)
    broken = loop_settings(mixed(places), tmp_path / "broken", config=config)
    passed = []

    def point(name):
        passed.append(name)
        if name == "loop.after_step" and passed.count(name) == 7:
            raise Killed

    monkeypatch.setattr(loop_module, "failpoint", point)
    with pytest.raises(Killed):
        train_loop(broken)
    monkeypatch.undo()
    train_loop(broken)
    for name, value in weights(whole).items():
        assert torch.equal(weights(broken)[name], value), name


def test_validation_reads_each_source_in_its_share(places):
    source = mixed(places, (3, 1)).source(RegressionTask(), "validation", cache_bytes=0)
    assert isinstance(source, MixedSource)
    found = source.held_out(0, 8).tolist()
    assert sum(shard >= 6 for shard, _ in found) == 2
    everything = source.held_out(0, 10_000).tolist()
    assert len({tuple(place) for place in everything}) == len(everything) == sum(source.counts)
    parts = validation_parts(RegressionTask(), source, train_config(), 8, 0, 1)
    assert sum(part.num_samples for part in parts) == 8


# -- weights --------------------------------------------------------------------------------------


def weighing(place: DataPlace, uri: Path, weight_of) -> DataPlace:
    """The same list with other weights."""
    keep = place.keep
    tables = []
    for shard in range(len(keep.entry["shards"])):
        table = keep.table(shard)
        values = pa.array([weight_of(key) for key in table["key"].to_pylist()], pa.float32())
        tables.append(table.set_column(6, table.schema.field("weight"), values))
    names = [shard["name"] for shard in keep.entry["shards"]]
    return replace(place, keep=KeepList(str(uri), write_keep_list(str(uri), names, tables)))


class Plain(RegressionTask):
    """Nothing drawn: one step is the gradient of a plain mean."""

    def build(self):
        model = super().build()
        model.drop.p = 0.0
        return model


def gradient(place, tmp_path, name):
    settings = loop_settings(place, tmp_path / name, task=Plain())
    trainer = loop_module._Trainer(settings, 0, 1)
    parts = next(iter(step_parts(settings.task, trainer.loader, settings.config, 0, 0, 1)))
    totals = torch.zeros(0)
    for part in parts:
        totals = trainer._backward(part, totals)
    return [p.grad.clone() for p in trainer.layout.trained.values()], trainer, parts


def test_a_weight_multiplies_the_loss_of_its_sample_and_nothing_else(places, tmp_path):
    rates = {key: 1.0 + number % 4 for number, key in enumerate(sorted(read_keys(places[0], [0])))}
    heavy = weighing(places[0], tmp_path / "w.parquet", lambda key: rates.get(key, 1.0))
    assert read_keys(heavy, range(9)) == read_keys(places[0], range(9))
    found, trainer, parts = gradient(heavy, tmp_path, "heavy")
    mean = heavy.keep.entry["mean_weight"]["train"]
    trainer.optimizer.zero_grad()
    keys = iter(read_keys(heavy, [0]))
    expected = torch.zeros(())
    positions = {}
    for part in parts:
        losses, _ = trainer.settings.task.loss(trainer.model, part.batch)
        for place, loss in zip(range(part.number, 8, 2), losses, strict=True):
            positions[place] = loss
    for place, key in enumerate(keys):
        expected = expected + positions[place] * rates[key] / mean / 8
    expected.backward()
    for one, parameter in zip(found, trainer.layout.trained.values(), strict=True):
        assert torch.allclose(one, parameter.grad, atol=1e-6)


def test_weights_are_scaled_to_a_mean_of_one_over_the_list(places, tmp_path):
    heavy = weighing(places[0], tmp_path / "w.parquet", lambda key: 2.0 + int(key[0], 16))
    values = []
    for shard in range(6):
        rows = heavy.keep.rows(shard, "train")
        values += heavy.keep.weights(rows, "train").tolist()
    assert sum(values) / len(values) == pytest.approx(1.0)
    assert len(set(values)) > 3


@pytest.mark.slow  # starts processes
def test_decoders_read_mixtures_and_bring_the_weights(places, tmp_path):
    heavy = weighing(places[0], tmp_path / "w.parquet", lambda key: 2.0 + int(key[0], 16))
    found = []
    for decoders in (0, 2):
        execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1, "decoders": decoders}
        config = train_config(execution=execution)
        settings = loop_settings(mixed([heavy, places[1]]), tmp_path, config=config)
        with closing(fed_parts(settings, open_loader(settings), 3, 0, 1)) as parts:
            found.append([part for _ in range(3) for part in next(parts)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.weights, other.weights)
        for name, value in one.batch.items():
            assert torch.equal(value, other.batch[name]), name
    assert torch.cat([part.weights for part in found[0]]).unique().numel() > 2


def test_weights_of_one_change_no_bit(places, tmp_path):
    ones = weighing(places[0], tmp_path / "w.parquet", lambda key: 1.0)
    assert dict(ones.keep.entry) == dict(places[0].keep.entry)
    assert not ones.keep.has_weights


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(places, tmp_path, value):
    with pytest.raises(DataError, match="weight is negative or no number"):
        weighing(places[0], tmp_path / "w.parquet", lambda key: value)


def test_weights_of_zero_alone_are_refused(places, tmp_path):
    nothing = weighing(places[0], tmp_path / "w.parquet", lambda key: 0.0)
    with pytest.raises(DataError, match="are all 0"):
        read_keys(nothing, [0])


def test_a_contrastive_task_refuses_weights(places, tmp_path):
    heavy = weighing(places[0], tmp_path / "w.parquet", lambda key: 1.0 + int(key[0], 16))
    reading.check(heavy, None, weighs=True)
    with pytest.raises(ConfigError, match="contrastive loss compares"):
        reading.check(heavy, None, weighs=False)


# -- what a run file says -------------------------------------------------------------------------


def mixing(*sources, **changes):
    listed = [dict(zip(("profile", "weight", "path"), each, strict=False)) for each in sources]
    return train_config(profile=None, mixture=listed, **changes)


def test_a_single_list_is_stated_as_ever_and_a_mixture_where_it_lies_is_left_out():
    from pipeline.config import semantic

    assert "mixture" not in semantic(train_config())
    config = mixing(("a", 3.0), ("b", 1.0, "runs/other"))
    told = semantic(config)
    assert "profile" not in told
    assert told["mixture"] == [{"profile": "a", "weight": 3.0}, {"profile": "b", "weight": 1.0}]
    assert config.quotas() == (3, 1)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], "reads one keep-list"),
        ([("a", 0.7), ("b", 0.3)], "num_lanes=4 is not a multiple of 10"),
        ([("a", 1.0), ("a", 1.0)], "names a keep-list twice"),
        ([("a", 0.0), ("b", 1.0)], "greater than 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(sources, words):
    with pytest.raises(ValidationError, match=words):
        mixing(*sources)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    one = make_run(tmp_path / "one")
    two = make_run(tmp_path / "two", 40, first=1000)
    return one, two


def known(run):
    from pipeline.chain.plan import recorded

    return recorded(run)


def settings_of(run, config, uri, task=None):
    found = settings_for(config, known(run), str(uri), run.select.split)
    return replace(found, task=task or RegressionTask(), validation_samples=8)


@pytest.fixture
def no_clip(monkeypatch):
    """The regression task stands on no CLIP."""
    monkeypatch.setattr(launch, "build_task", lambda config, inputs: RegressionTask())


def test_two_runs_are_mixed_and_whoever_was_read_is_told_exactly(runs, no_clip):
    one, two = runs
    config = mixing(("generative", 1.0), ("all", 1.0, two.output_dir))
    uri = Path(one.output_dir, "prior", "0123456789ab")
    settings = settings_of(one, config, uri)
    train_loop(settings)
    summary = json.loads((uri / "loop.json").read_text())
    publish(str(uri), "prior", {"weights": {"name": "weights.safetensors"}, **summary})
    keys = read_keys(settings.data, range(20))
    assert len(keys) == summary["samples"]
    for data, run in zip(settings.data.places, runs, strict=True):
        dataset = CuratedDataset.open(data.curated_uri)
        wanted = [row["key"] for row in dataset.rows(1, ["key"]).to_pylist()]
        found = list(lineage(one.output_dir, Removals([entry("key", key) for key in wanted])))
        (model,) = [each for each in found if each["artefact"] == "model"]
        assert model["samples_seen"] == 160
        assert any(row["times_read"] for row in model["samples"])
        for row in model["samples"]:
            assert row["times_read"] == keys.count(row["key"]), run.output_dir
            assert bool(row["times_read"]) <= (row["split"] == "train")


def test_a_training_that_is_not_finished_is_told_up_to_its_checkpoint(runs, no_clip, monkeypatch):
    one, _ = runs
    execution = {"num_workers": 1, "threads": 1, "checkpoint_every_s": 1e-9}
    config = train_config(execution=execution)
    settings = settings_of(one, config, Path(one.output_dir, "prior", "0123456789ab"))
    monkeypatch.setattr(loop_module, "failpoint", kill_after(11))
    with pytest.raises(Killed):
        train_loop(settings)
    wanted = Removals([entry("domain", "example")])
    (model,) = [x for x in lineage(one.output_dir, wanted) if x["artefact"] == "model"]
    assert not model["is_finished"]
    assert 0 < model["samples_seen"] <= 88
    read = read_keys(settings.data, range(model["samples_seen"] // 8))
    assert {row["key"]: row["times_read"] for row in model["samples"] if row["times_read"]} == {
        key: read.count(key) for key in read
    }


def kill_after(steps):
    passed = []

    def point(name):
        passed.append(name)
        if name == "loop.after_step" and passed.count(name) == steps:
            raise Killed

    return point


def test_another_run_that_cannot_be_read_is_refused(runs, no_clip, tmp_path):
    one, two = runs
    with pytest.raises(ConfigError, match=r"no keep-list 'none' there, only all, generative"):
        settings_of(one, mixing(("all", 1.0), ("none", 1.0, two.output_dir)), tmp_path / "x")
    index = Path(two.output_dir, INDEX)
    told = json.loads(index.read_text())
    embedded = known(two)["embed"]
    publish(embedded.uri, "embed", {**embedded.content, "clip_sha256": "d" * 64})
    with pytest.raises(ConfigError, match=r"of CLIP dddddddddddd…, those of this run of cccc"):
        settings_of(one, mixing(("all", 1.0), ("all", 1.0, two.output_dir)), tmp_path / "x")
    del told["stages"]["select"]
    index.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="select is not finished there"):
        settings_of(one, mixing(("all", 1.0), ("all", 1.0, two.output_dir)), tmp_path / "x")


def test_what_another_run_holds_enters_the_identity_where_it_lies_does_not(runs, tmp_path):
    from pipeline.chain import given

    one, two = runs
    moved = tmp_path / "moved"
    Path(two.output_dir).rename(moved)

    def hashed(path):
        section = mixing(("all", 1.0), ("all", 1.0, str(path)))
        return given.removals_and_other_runs(one.model_copy(update={"prior": section}))

    before = hashed(moved)
    assert list(before) == ["mixture of prior"]
    moved.rename(tmp_path / "again")
    assert hashed(tmp_path / "again") == before
    select = next((tmp_path / "again" / "select").glob("*/manifest.json"))
    told = json.loads(select.read_text())
    told["content"]["profiles"]["all"]["sha256"] = "0" * 64
    select.write_text(json.dumps(told))
    assert hashed(tmp_path / "again") != before
