from pathlib import Path

import pytest
import yaml

from pipeline.chain import pilot
from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.run_file import RunFile

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "jobs/configs/demo/run.yaml")


def test_a_pilot_has_a_name_a_folder_and_a_share_of_its_own():
    given = ['output_dir=/data/über "runs"/', "candidates.seed=7"]
    found = [*given, *pilot.overrides(DEMO, given, 0.05, 0.04, None)]
    run = load_run(RunFile, DEMO, found)
    assert run.output_dir == '/data/über "runs"-sample-0.05'
    assert run.name == "demo-sample-0.05"
    assert run.candidates.sample == 0.05
    assert (run.execution.prices.per_cpu_hour, run.execution.prices.per_gb) == (0.04, None)
    whole = load_run(RunFile, DEMO, given)
    assert whole.candidates.sample == 1
    assert whole.output_dir == '/data/über "runs"'


def test_prices_alone_make_no_pilot():
    found = pilot.overrides(DEMO, [], None, None, 0.01)
    assert found == ["execution.prices.per_gb=0.01"]
    assert pilot.overrides(DEMO, [], None, None, None) == []


@pytest.mark.parametrize("sample", [0.0, 1.0, -1.0, 20.0])
def test_a_share_that_is_none_of_a_sample_is_refused(sample):
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        pilot.overrides(DEMO, [], sample, None, None)


def test_a_sample_that_leaves_queries_nothing_to_keep_is_refused():
    with pytest.raises(ConfigError, match=r"0\.3 of the 300 pairs .* a sample of 0\.0033 or more"):
        given = ["queries.sources=[{type: numbers}]"]
        load_run(RunFile, DEMO, [*given, *pilot.overrides(DEMO, given, 0.001, None, None)])
    with pytest.raises(ConfigError, match=r"0\.4 of the 40 captions .* a sample of 0\.025 or more"):
        load_run(RunFile, DEMO, pilot.overrides(DEMO, [], 0.01, None, None))


def test_nothing_can_be_sampled_without_candidates(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: a\noutput_dir: b\nqueries: {}\n")
    with pytest.raises(ConfigError, match="no candidates to sample"):
        pilot.overrides(str(path), [], 0.5, None, None)


def test_every_kind_of_source_takes_a_sample(tmp_path):
    whole = yaml.safe_load(Path(DEMO).read_text())
    values = {name: whole[name] for name in ("name", "output_dir", "queries", "balance")}
    for kind in ("url_table", "warc", "wat", "folder"):
        values["candidates"] = {"type": kind, "path": "x"}
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(values))
        found = pilot.overrides(str(path), [], 0.1, None, None)
        assert load_run(RunFile, path, found).candidates.sample == 0.1
