from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from pipeline.config import StrictModel, load_run, semantic
from pipeline.errors import ConfigError


class Execution(StrictModel):
    workers: int = 1


class Cat(StrictModel):
    type: Literal["cat"]
    lives: int = Field(default=9, ge=1)


class Dog(StrictModel):
    type: Literal["dog"]


class Run(StrictModel):
    name: str
    pet: Annotated[Cat | Dog, Field(discriminator="type")]
    numbers: tuple[Cat, ...] = ()
    execution: Execution = Execution()


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("name: demo\npet: {type: cat, lives: 3}\nnumbers: [{type: cat}]\n")
    return path


def test_overrides_win_and_are_yaml(run_file):
    overrides = ["pet.lives=7", "execution.workers=4", "name='x'", "numbers.0.lives=2"]
    run = load_run(Run, run_file, overrides)
    assert run.numbers[0].lives == 2
    assert isinstance(run.pet, Cat)
    assert (run.pet.lives, run.execution.workers, run.name) == (7, 4, "x")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pet.livs=7", ["unknown key pet.livs; did you mean pet.lives?"]),
        ("nam=7", ["nam", "did you mean name"]),
        ("pet.lives=0", ["pet.lives=0: ", "greater than or equal to 1"]),
        ("pet.type=bird", ["pet", "bird"]),
        (
            "numbers=[{type: cat, life: 2}]",
            ["unknown key numbers.0.life; did you mean numbers.0.lives?"],
        ),
        ("pet.lives", ["expected a.b=value"]),
        ("name.x=1", ["x stands in a value, not a section"]),
        ("name.x.y=1", ["x stands in a value, not a section"]),
        ("numbers.1.life=2", ["1 stands in a list of 1"]),
        ("name=[", ["not valid YAML"]),
    ],
)
def test_a_bad_override_names_key_value_and_remedy(run_file, override, words):
    with pytest.raises(ConfigError) as error:
        load_run(Run, run_file, [override])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("- 1\n", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("pet: {type: cat}\n", "name is missing"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, word):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        load_run(Run, path)


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_run(Run, tmp_path / "none.yaml")


def test_semantic_leaves_execution_out_at_every_depth(run_file):
    run = load_run(Run, run_file, ["execution.workers=4"])
    assert semantic(run) == {
        "name": "demo",
        "pet": {"type": "cat", "lives": 3},
        "numbers": [{"type": "cat", "lives": 9}],
    }
