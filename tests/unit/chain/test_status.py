from pathlib import Path

from pipeline import lease
from pipeline.chain.status import status
from pipeline.config import load_run
from pipeline.run_file import RunFile

DEMO = Path(__file__).resolve().parents[3] / "jobs/configs/demo/run.yaml"


def states(run):
    *stages, last = status(run)
    return {each["stage"]: each["state"] for each in stages}, last["held_by"]


def test_a_run_says_what_is_begun_what_waits_and_who_holds_it(tmp_path):
    run = load_run(RunFile, DEMO, [f"output_dir={tmp_path / 'run'}"])
    found, held_by = states(run)
    assert set(found) >= {"queries", "curate", "clip", *run.model_stages(), "evaluate"}
    assert found.pop("queries") == "to do"
    assert set(found.values()) == {"waits"}
    assert held_by is None
    assert not (tmp_path / "run").exists()

    uri = Path(next(iter(status(run)))["uri"])
    uri.mkdir(parents=True)
    (uri / "part.parquet").write_bytes(b"")
    with lease.hold(run.output_dir):
        found, held_by = states(run)
    assert found["queries"] == "begun"
    assert held_by.startswith("process ")
    assert states(run)[1] is None
