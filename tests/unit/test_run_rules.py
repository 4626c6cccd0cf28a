from pathlib import Path

import pytest
import yaml

from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.run_file import RunFile

DEMO = Path(__file__).resolve().parents[2] / "jobs/configs/demo/run.yaml"
SECTIONS = ["candidates", "queries", "balance", "curate", "clip", "embed", "select", "prior"]


def refusal(*overrides):
    with pytest.raises(ConfigError) as caught:
        load_run(RunFile, DEMO, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("prior.profile=mine", ["prior.profile='mine'", "select.profiles"]),
        ("evaluate.profile=mine", ["evaluate.profile='mine'", "add it there"]),
        ("generate.upsamplers=[{}, {}, {}]", ["has 3 entries", "trains 2"]),
        ("generate.decoder.num_steps=1001", ["decoder for num_steps=1001", "with 1000"]),
        ("decoder.task.model.clip.embed_dim=32", ["(32, 64)", "(64, 64)"]),
        ("curate.shards.views_px=[256]", ["decoder reads a 64 px view", "add it"]),
        ("candidates={type: warc, path: a.warc}", ["held_out", "use inline or file"]),
        ("select=null", ["section clip needs select"]),
        ("candidates=null", ["needs candidates"]),
        ("prior.task.type=clip", ["prior"]),
    ],
)
def test_sections_that_disagree_are_refused_with_value_rule_and_remedy(override, words):
    said = refusal(override)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("last", "models"),
    [
        ("queries", []),
        ("balance", []),
        ("curate", []),
        ("select", ["clip"]),
        ("prior", ["clip", "prior"]),
    ],
)
def test_a_run_file_may_stop_after_a_section(last, models, tmp_path):
    values = yaml.safe_load(DEMO.read_text())
    wanted = {"name", "output_dir", *SECTIONS[: SECTIONS.index(last) + 1]}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if k in wanted}))
    run = load_run(RunFile, path)
    assert [name for name, _ in run.training_stages()] == models
