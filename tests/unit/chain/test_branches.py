"""``--from-step`` and ``--skip`` as overrides of a run file, and what they refuse."""

from types import SimpleNamespace

import pytest

from jobs import command
from pipeline import storage
from pipeline.chain import branches
from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.run_file import RunFile
from tests.tiny_run import tiny_run


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """A run whose trainings all have a folder with checkpoints, as far as planning can see."""
    path = tiny_run(tmp_path)
    run = load_run(RunFile, str(path), [])
    steps = []
    for name, _ in run.training_stages():
        uri = str(tmp_path / name)
        storage.write_json(f"{uri}/checkpoints/step-000000000032/manifest.json", {})
        stage = SimpleNamespace(name=name)
        steps.append(SimpleNamespace(stage=stage, identity="0123456789abcdef", uri=uri))
    monkeypatch.setattr(branches, "plan", lambda run: steps)
    return str(path)


def test_a_branch_is_a_field_of_its_section(run_file):
    (override,) = branches.overrides(run_file, [], "decoder", 2, ["64:66", "68:70"])
    run = load_run(RunFile, run_file, [override])
    assert run.decoder.branch.model_dump() == {
        "of": "0123456789ab",
        "from_samples": 64,
        "skipped": ((64, 66), (68, 70)),
    }


@pytest.mark.parametrize("stage", ["upsampler_16_64", "upsampler_64_256"])
def test_an_upsampler_is_found_by_its_name(run_file, stage):
    (override,) = branches.overrides(run_file, [], stage, 1, [])
    run = load_run(RunFile, run_file, [override])
    assert [name for name, config in run.upsampler_stages() if config.branch] == [stage]


@pytest.mark.parametrize(
    ("stage", "from_step", "skipped", "given", "words"),
    [
        ("decoder", None, ["1:2"], [], ["--skip", "--from-step N"]),
        ("embed", 1, [], [], ["embed trains nothing"]),
        ("decoder", 1, ["1-2"], [], ["--skip 1-2", "FIRST:END"]),
        (
            "decoder",
            1,
            [],
            ["decoder.branch={of: aaaaaaaaaaaa, from_samples: 32}"],
            ["a branch already", "aaaaaaaaaaaa"],
        ),
    ],
)
def test_what_is_no_branch_is_refused(run_file, stage, from_step, skipped, given, words):
    with pytest.raises(ConfigError) as caught:
        branches.overrides(run_file, given, stage, from_step, skipped)
    for word in words:
        assert word in str(caught.value)


def test_a_training_without_checkpoints_cannot_be_left(run_file, tmp_path):
    storage.remove_folder(str(tmp_path / "decoder"))
    with pytest.raises(ConfigError, match="holds no checkpoints"):
        branches.overrides(run_file, [], "decoder", 1, [])


def test_a_refusal_is_of_the_whole_request(run_file):
    def request(**options):
        return command._raw_request(SimpleNamespace(config=run_file, set=[], **options))

    asked = request(stage="decoder", from_step=None, skip=["0:64"])
    assert asked != request(stage="decoder", from_step=10, skip=["0:64"])
    assert asked == request(stage="decoder", from_step=None, skip=["0:64"])
