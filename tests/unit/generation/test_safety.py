import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.generation import batch
from pipeline.generation.config import SafetyConfig
from pipeline.generation.partition import PartitionMaker
from pipeline.generation.plan import DECODER, FINAL, plan
from pipeline.generation.prompts import Prompt
from pipeline.generation.run_stages import RunStages
from pipeline.generation.safety import PictureRules, PromptRules, Verdict, screened, worst
from pipeline.progress import Progress
from pipeline.selection.heads import write_head
from pipeline.shards.writer import read_table
from tests import tiny_stack
from tests.synthetic import DIM

PACKAGE = """
class Odd:
    def __init__(self, settings):
        self.say = settings["say"]
    def __call__(self, prompts, images):
        return [self.say if prompt.endswith(("1", "3")) else None for prompt in prompts]

class Short(Odd):
    def __call__(self, prompts, images):
        return []
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with entry points, as an installer leaves it."""
    info = tmp_path / "site" / "my_safety-1.2.dist-info"
    info.mkdir(parents=True)
    (info.parent / "my_safety.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-safety\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[unclip_pipeline.safety_classifiers]\nodd = my_safety:Odd\nshort = my_safety:Short\n"
    )
    monkeypatch.syspath_prepend(str(info.parent))


def classifier(name="odd", say="is_odd"):
    return {"name": name, "version": "1.2", "settings": {"say": say}}


def head(path, weight, bias=0.0, **more):
    layer = (np.asarray([weight], np.float32), np.asarray([bias], np.float32))
    write_head(str(path), [layer], scale="raw", activation="none", calibration="a test's", **more)
    return {"path": str(path), "at_most": 0.5}


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ("a photo of a GUN.", "words"),
        ("ｇｕｎ", "words"),
        ("two  shotgun\tshells on a table", "words"),
        ("a shotgun", None),
        ("gunpowder", None),
        ("a portrait of j. doe", "patterns"),
        ("a portrait of J.Doe", "patterns"),
        ("does it work", None),
    ],
)
def test_words_are_whole_and_patterns_are_searched(prompt, rule):
    rules = PromptRules(SafetyConfig(words=("Gun", "shotgun shells"), patterns=(r"j\.?\s*doe\b",)))
    assert rules(prompt) == rule


def test_refused_prompts_are_left_out_and_none_is_no_generation():
    prompts = [Prompt("a gun"), Prompt("a cat")]
    config = SafetyConfig(words=("gun",))
    assert screened(prompts, config) == ([Prompt("a cat")], [("a gun", "words")])
    assert screened(prompts, None) == (prompts, [])
    with pytest.raises(ConfigError, match="refuses all 1 prompts"):
        screened(prompts[:1], config)


def test_a_head_withholds_above_its_bound_and_a_classifier_by_its_word(tmp_path, package):
    first = [1.0] + [0.0] * (DIM - 1)
    config = SafetyConfig(heads={"unsafe": head(tmp_path / "h", first)}, classifiers=[classifier()])
    z_img = np.zeros((3, DIM), np.float32)
    z_img[:, 0] = [0.5, 0.75, 0.25]
    images = [Image.new("RGB", (4, 4))] * 3
    found = PictureRules(config, DIM, "a" * 64)(["p0", "p1", "p3"], images, z_img)
    assert [verdict.reasons for verdict in found] == [(), ("unsafe", "is_odd"), ("is_odd",)]
    assert found[1].scores == {"unsafe": 0.75}
    assert worst(found).reasons == ("is_odd", "unsafe")
    assert worst(found).scores == {"unsafe": 0.75}
    assert Verdict((), {}).facts() == {}


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"classifiers": [classifier("short")]}, DataError, "0 answers for 1"),
        ({"classifiers": [classifier(say="Not Snake")]}, DataError, "snake_case"),
        ({"classifiers": [classifier() | {"version": "2"}]}, ConfigError, "version 2 is wanted"),
        ({"classifiers": [classifier("absent")]}, ConfigError, "not installed.*has odd, short"),
    ],
)
def test_a_classifier_that_does_not_fit_is_named(package, changes, error, reason):
    with pytest.raises(error, match=reason):
        rules = PictureRules(SafetyConfig(**changes), DIM, "a" * 64)
        rules(["p1"], [Image.new("RGB", (4, 4))], np.zeros((1, DIM), np.float32))


def test_a_head_of_another_clip_is_refused(tmp_path):
    other = head(tmp_path / "h", [0.0] * DIM, clip_sha256="b" * 64)
    with pytest.raises(ConfigError, match=r"safety\.heads\.unsafe: .* was trained on the CLIP bbb"):
        PictureRules(SafetyConfig(heads={"unsafe": other}), DIM, "a" * 64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({}, "no rule"), ({"words": [" "]}, "empty word"), ({"patterns": ["("]}, "is none")],
)
def test_rules_that_mean_nothing_are_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        SafetyConfig(**changes)


def test_without_safety_nothing_of_it_enters_the_identity():
    assert "safety" not in tiny_stack.generate_config().model_dump(mode="json")


def test_withheld_pictures_are_black_in_every_size_recorded_and_counted(tmp_path, package):
    safety = {"classifiers": [classifier()], "words": ["gun"]}
    config = tiny_stack.generate_config(
        prompts={"type": "inline", "texts": ["p0", "p1", "gun", "p2"]},
        safety=safety,
        ablations={"num_pictures": 0},
        num_pictures=3,
    )
    stack, uri = tiny_stack.make_stack(tmp_path / "stack"), str(tmp_path / "out")
    maker = PartitionMaker(RunStages.of(stack), config, (), uri)
    prompts = [Prompt(f"p{n}") for n in range(3)]
    for partition in plan(prompts, 0, config.pictures_per_shard, config.seed):
        marker = maker.make(partition)
    output = batch.generate(config, stack, [], uri, Progress())  # all is made: Ray is not open
    assert marker["withheld"] == {"is_odd": 1}
    assert output.content["safety"] == {
        "refused_prompts": {"words": 1},
        "withheld_pictures": {"is_odd": 1},
    }
    refused = read_table(storage.join(uri, batch.REFUSED), ["prompt", "rule"]).to_pylist()
    assert refused == [{"prompt": "gun", "rule": "words"}]
    with tarfile.open(f"{uri}/shards/00000.tar") as tar:
        for kind in (FINAL, DECODER):
            for number in range(3):
                key = f"{kind}-{number:08d}"
                image = Image.open(io.BytesIO(tar.extractfile(f"{key}.png").read()))
                told = json.load(tar.extractfile(f"{key}.json"))["safety"]
                is_odd = number == 1
                assert (image.getbbox() is None) == is_odd
                assert image.text.get("Withheld") == ("is_odd" if is_odd else None)
                assert told == {
                    "withheld": is_odd,
                    "reasons": ["is_odd"] if is_odd else [],
                    "scores": {},
                }
