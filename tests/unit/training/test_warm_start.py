"""Trainings that begin with trained weights, freeze parts, or let parts learn more slowly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import weights_file
from pipeline.chain import given
from pipeline.chain.stages import stages
from pipeline.config import load_run, semantic
from pipeline.errors import CheckpointError, ConfigError
from pipeline.run_file import RunFile
from pipeline.training.config import WarmStart
from pipeline.training.loop import train_loop
from pipeline.training.optim import adamw, set_learning_rate
from pipeline.training.starting import weights_of
from pipeline.training.warm_start import prepared
from tests.synthetic import Blocks, BlockTask, loop_settings, make_dataset, train_config

DEMO = Path(__file__).parents[3] / "jobs/configs/demo/run.yaml"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def weights(tmp_path):
    """A trained network of blocks, in our form."""
    torch.manual_seed(7)
    uri = str(tmp_path / "weights.safetensors")
    weights_file.export_weights(uri, Blocks().state_dict(), {"type": "test"}, "prior")
    return uri


def begun(weights, **fields):
    start = WarmStart(path=weights, **fields)
    return prepared(Blocks(), train_config(warm_start=start.model_dump()), weights)


def test_all_weights_are_taken_and_their_place_is_not_part_of_what_comes_out(weights):
    network, stored = begun(weights), load_file(weights)
    for name, value in network.state_dict().items():
        assert torch.equal(value, stored[name]), name


def test_parts_are_taken_under_other_names_and_the_rest_begins_fresh(weights):
    network = begun(
        weights,
        taken={"blocks.0.": "blocks.1."},
        fresh=["embed", "blocks.0", "narrow", "out", "log_scale", "shift"],
    )
    stored, own = load_file(weights), network.state_dict()
    moved = [name for name in stored if name.startswith("blocks.0.")]
    assert moved
    for name in moved:
        assert torch.equal(own[name.replace("blocks.0.", "blocks.1.")], stored[name])
    assert not torch.equal(own["embed.weight"], stored["embed.weight"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"taken": {"blocks.": "blocks."}}, ["missing", "embed.weight", "out.bias"]),
        ({"taken": {"blocks.": "layers.", "": ""}}, ["unknown", "layers.0.", "missing"]),
        ({"taken": {"embed.": "narrow."}}, ["of another shape", "narrow.weight (64, ", "missing"]),
        ({"taken": {"embed.": "out.", "": ""}}, ["embed.bias and out.bias", "both become"]),
        ({"taken": {"unet.": ""}}, ["warm_start.taken", "no name in", "embed, log_scale"]),
        ({"fresh": ["head"]}, ["warm_start.fresh", "'head'", "blocks"]),
    ],
)
def test_what_does_not_fit_is_named_key_by_key(weights, fields, words):
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        begun(weights, **fields)
    for word in words:
        assert word in str(caught.value)


def test_frozen_parts_stay_bit_for_bit_and_the_others_learn(dataset, weights, tmp_path):
    start = {"path": weights}
    config = train_config(warm_start=start, frozen=["blocks.", "log_scale"])
    settings = loop_settings(
        dataset, tmp_path / "run", config=config, task=BlockTask(), start_uri=weights
    )
    train_loop(settings)
    before, after = load_file(weights), load_file(f"{settings.uri}/weights.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        stays = name.startswith(("blocks.", "log_scale", "shift"))
        assert torch.equal(before[name], after[name]) == stays, name


@pytest.mark.parametrize("field", ["frozen", "learning_rate_factors"])
def test_a_prefix_of_nothing_is_refused_with_the_parts_there_are(field):
    values = ["heads."] if field == "frozen" else {"heads.": 0.1}
    with pytest.raises(ConfigError, match=r"'heads\.'; its parts are .*blocks"):
        prepared(Blocks(), train_config(**{field: values}), None)


def test_something_must_be_left_to_train():
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        prepared(Blocks(), train_config(frozen=[""]), None)


def test_the_longest_prefix_decides_how_fast_a_parameter_learns():
    model = Blocks()
    factors = {"blocks.": 0.1, "blocks.1.": 0.5}
    optimizer = adamw(model, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, factors=factors)
    set_learning_rate(optimizer, 2.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        slow = 0.1 if name.startswith("blocks.0") else 0.5 if name.startswith("blocks.1") else 1.0
        assert rates[id(parameter)] == pytest.approx(2.0 * slow), name


def test_a_run_is_asked_for_the_stage_of_the_same_name(weights, tmp_path):
    with pytest.raises(ConfigError, match="name the output_dir of a run"):
        weights_of(WarmStart(path=str(tmp_path / "nothing")), "decoder")
    with pytest.raises(ConfigError, match="no such file"):
        weights_of(WarmStart(path=str(tmp_path / "no.safetensors")), "decoder")
    uri, sha256 = weights_of(WarmStart(path=weights), "decoder")
    assert uri == weights
    assert len(sha256) == 64


def test_the_weights_enter_the_identity_and_their_place_does_not(weights, tmp_path):
    def hashes(path):
        run = load_run(RunFile, DEMO, [f"decoder.warm_start.path={path}"])
        stage = next(stage for stage in stages(run) if stage.name == "decoder")
        assert "start of decoder" in stage.inputs
        assert "path" not in semantic(run.decoder)["warm_start"]
        return given.removals_and_other_runs(run)

    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_bytes(Path(weights).read_bytes())
    assert hashes(weights) == hashes(elsewhere)
    weights_file.export_weights(str(elsewhere), Blocks().state_dict(), {"type": "test"}, "prior")
    assert hashes(weights) != hashes(elsewhere)
    assert given.removals_and_other_runs(load_run(RunFile, DEMO)) == {}
