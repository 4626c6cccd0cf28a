from pathlib import Path

import pytest
import yaml

from pipeline.config import load_run
from pipeline.run_file import RunFile

ROOT = Path(__file__).resolve().parents[1]
RUN_FILES = sorted((ROOT / "jobs/configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_run_file_parses_and_its_head_is_a_claim(path):
    overrides = []
    values = yaml.safe_load(path.read_text())
    if values.get("candidates", {}).get("type") == "url_table":
        overrides = ["candidates.path=pairs.parquet"]
    if "adopt" in values:
        overrides = ["adopt.path=shards"]
    run = load_run(RunFile, path, overrides)
    assert run.name
    head = path.read_text().split("\nname:")[0]
    for word in ("command:", "hardware:", "duration:", "result:"):
        assert word in head, f"the head of {path.name} has no {word}"


def test_there_are_run_files():
    assert {path.relative_to(ROOT / "jobs/configs").parts[0] for path in RUN_FILES} >= {
        "demo",
        "karlo",
        "real",
    }
